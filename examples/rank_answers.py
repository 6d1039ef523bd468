"""Log-likelihoods of several answers to one question; the question is computed once."""

import hornbeam as hb

lm = hb.LM.from_pretrained("smollm2")
question = "Question: Which planet is known as the red planet?\nAnswer:"
answers = [" Mars", " Venus", " Jupiter"]
for answer, score in zip(answers, lm.score(question, answers), strict=True):
    print(f"{answer:10} {score.total:8.2f} nats")
