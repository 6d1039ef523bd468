"""Prompts on which a model writes the text that a feature head is trained on, where it is given no others.

Built from templates and word lists by a seeded generator, so that the list is varied, repeatable and
short to read. The prompts of the benches are not among them and share no template with them.
"""

from __future__ import annotations

import random

from hornbeam.errors import ArgumentError

__all__ = ["made_prompts"]

# More are not asked for: the templates make about ten times as many.
MOST = 50_000

SUBJECTS = """
photosynthesis|the French Revolution|compound interest|black holes|the immune system|supply and demand
plate tectonics|the Roman Empire|machine learning|vaccines|the water cycle|jazz music|the Silk Road|gravity
renewable energy|the human heart|ancient Egypt|public-key cryptography|coral reefs|the Renaissance|inflation
electric cars|the periodic table|meditation|the Cold War|bees and pollination|the stock market|volcanoes
the printing press|quantum mechanics|healthy sleep|the Amazon rainforest|Shakespeare's plays|chess openings
the Internet|evolution|antibiotics|the solar system|Greek mythology|urban planning|earthquakes|nutrition
the history of bread|the violin|operating systems|sailing ships|the moon landing|glaciers|tea
migration of birds
democracy|the digestive system|photography|recycling|dinosaurs|the Great Wall of China|time zones|mountains
databases|the speed of light|honey|bridges|desert animals|the alphabet|weather forecasts|stress|satellites
""".replace("\n", "|")

ACTIVITIES = """
plan a birthday party|bake sourdough bread|prepare for a job interview|learn to play the guitar|grow tomatoes
save money every month|train for a marathon|organise a small kitchen|write a cover letter
clean a bicycle chain
study for exams|start a podcast|choose a laptop|teach a child to read|make friends in a new city|paint a room
reduce food waste|pack for a camping trip|learn Spanish|give a good speech|set up a home office|adopt a dog
improve my handwriting|cook rice|start a small business|take better photos|deal with a difficult colleague
build a bookshelf|read more books|plant a tree|sleep better|fix a leaking tap|plan a trip to Japan
negotiate a raise
""".replace("\n", "|")

CODE = """
reverses a string|sorts a list of numbers|counts the words in a file|computes the factorial of a number
finds the largest element of a list|removes duplicates from a list|reads a CSV file and prints its rows
converts Celsius to Fahrenheit|merges two sorted lists|checks whether a word is a palindrome
finds the common elements of two lists|generates the Fibonacci sequence|validates an email address
implements a stack|implements binary search|downloads a web page|parses a date string|flattens a nested list
groups a list of dictionaries by a key|computes the mean and the median|draws a multiplication table
encrypts text with a Caesar cipher|simulates rolling two dice|transposes a matrix|counts vowels in a sentence
implements a simple to-do list|finds the longest word of a text|computes the greatest common divisor
""".replace("\n", "|")

CHARACTERS = """
a lighthouse keeper|a retired detective|a young inventor|a talking cat|a shy robot|two rival bakers
a lost traveller
a dragon who is afraid of fire|a school teacher on Mars|a musician without a piano|a fisherman's daughter
an old clockmaker|a girl who can hear plants|a night-shift nurse|a king who hates his crown|a forgetful wizard
a postman in a snow storm|three brothers and a river|a chess player|a ghost who runs a library
""".replace("\n", "|")

PASSAGES = [
    "The meeting was moved to Thursday because the projector in the main room is broken. Anna will bring "
    "a spare one, but we need somebody to test it beforehand. Please tell her by Tuesday if you can help.",
    "Honey bees communicate the position of flowers by dancing. The angle of the dance shows the direction "
    "relative to the sun, and its duration shows the distance. Other bees follow the dancer and fly there.",
    "i cant belive how late the bus was today, it were suposed to come at eight but it didnt arrived untill "
    "half past nine and nobody tell us why. next time i will took the train",
    "Our company sold 1,200 bicycles in March, 1,450 in April and 980 in May. Returns fell from 4 % to 2 %. "
    "The new warehouse opens in July and should cut delivery times by two days.",
    "Dear Mr Jensen, I am writing to complain about the heating in my flat, which has not worked for nine "
    "days. I have called your office four times. I expect a repair this week or a reduction of the rent.",
    "Water expands when it freezes, because its molecules form an open lattice. That is why ice floats, why "
    "pipes burst in winter, and why lakes freeze from the top, so that fish survive below.",
    "The library opens at nine on weekdays and at ten on Saturdays. Members may borrow eight books for four "
    "weeks. Late books cost twenty cents a day. Children under twelve pay nothing.",
    "She walked along the empty beach, counting the shells that the storm had left. At the end of the pier "
    "somebody had lit a lamp, though the harbour had been closed for years.",
]

QUESTIONS = [
    "Explain {subject} in simple terms.",
    "What are the most important facts about {subject}?",
    "Why does {subject} matter today?",
    "Give me a short history of {subject}.",
    "What are common misconceptions about {subject}?",
    "Write an introduction to {subject} for a school magazine.",
    "Compare {subject} with {other}.",
    "List ten key terms related to {subject} with a short definition of each.",
    "Make a quiz of five questions about {subject}, with answers.",
    "I have to give a talk about {subject}. Suggest an outline.",
    "Write a short essay about {subject}.",
    "What would the world be like without {subject}?",
    "Tell me something surprising about {subject}.",
    "How is {subject} connected to {other}?",
    "Write a dialogue between a teacher and a student about {subject}.",
]

HELP = [
    "How do I {activity}?",
    "Give me a step-by-step plan to {activity}.",
    "What mistakes should I avoid when I want to {activity}?",
    "I want to {activity} but I have very little time. What do you suggest?",
    "List seven tips to {activity}.",
    "Write an email to a friend who asked me how to {activity}.",
    "Make a checklist for somebody who wants to {activity}.",
]

PROGRAMS = [
    "Write a Python function that {code}.",
    "Write a {language} program that {code}, with comments.",
    "Show me code in {language} that {code}, and explain how it works.",
    "Write a function that {code}, and three tests for it.",
]

STORIES = [
    "Write a short story about {character}.",
    "Write a poem about {character}.",
    "Describe {character} in one paragraph.",
    "Continue this story: Once upon a time, {character} found a letter that",
    "Write a conversation between {character} and a stranger on a train.",
    "Write the beginning of a novel about {character}.",
]

REWRITES = [
    "Rewrite the following text in a more formal style:\n\n{passage}",
    "Summarise this text in two sentences:\n\n{passage}",
    "Correct the spelling and the grammar of this text:\n\n{passage}",
    "Turn this text into a list of bullet points:\n\n{passage}",
    "Answer from the text: what is its main point, and why?\n\n{passage}",
    "Write a reply to this text:\n\n{passage}",
    "Explain this text to a ten-year-old child:\n\n{passage}",
]

SUMS = [
    "If {name} buys {a} apples at {b} cents each and pays with a note of {c} dollars, what is the change? "
    "Explain each step.",
    "A train travels {a} kilometres in {b} minutes. How fast is it in kilometres per hour?",
    "What is {a} times {b}? Show the calculation.",
    "{name} is {a} years old and {other_name} is {b} years older. How old will both be in {c} years?",
]

NAMES = ["Maria", "John", "Aisha", "Tom", "Li", "Elena", "Sam", "Priya"]
LANGUAGES = ["Python", "JavaScript", "Java", "C", "Python", "Bash", "SQL"]
KINDS = [QUESTIONS] * 6 + [HELP] * 4 + [PROGRAMS] * 3 + [STORIES] * 3 + [REWRITES] * 3 + [SUMS]


def _words(block: str) -> list[str]:
    return [word.strip() for word in block.split("|") if word.strip()]


def made_prompts(count: int, seed: int = 0) -> list[str]:
    """``count`` different requests, the same for every run with the same arguments up to the count.

    Args:
        count: of the requests.
        seed: of the choice among the templates and words.

    Raises:
        ArgumentError: so many cannot be made.
    """
    if count > MOST:
        raise ArgumentError(f"prompts is {count}, expected at most {MOST} where no text is given")
    draw = random.Random(seed)
    subjects, activities, code, characters = map(_words, (SUBJECTS, ACTIVITIES, CODE, CHARACTERS))
    found: dict[str, None] = {}
    while len(found) < count:
        subject, other = draw.sample(subjects, 2)
        name, other_name = draw.sample(NAMES, 2)
        text = draw.choice(draw.choice(KINDS)).format(
            subject=subject,
            other=other,
            activity=draw.choice(activities),
            code=draw.choice(code),
            language=draw.choice(LANGUAGES),
            character=draw.choice(characters),
            passage=draw.choice(PASSAGES),
            name=name,
            other_name=other_name,
            a=draw.randint(3, 90),
            b=draw.randint(3, 90),
            c=draw.choice([5, 10, 20, 50]),
        )
        found[text] = None
    return list(found)
