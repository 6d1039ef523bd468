"""Prompts spread over the workers of a Ray cluster, with one budget over all: what short answers leave goes
to longer ones. Needs ``pip install 'hornbeam[demo,ray]'``; with ``RAY_ADDRESS`` it runs on that cluster."""

import hornbeam as hb

prompts = [
    "Name three trees.",
    "Explain to a child why the sky is blue.",
    "What is the capital of France?",
    "Write a short poem about a tree in winter.",
]


def main() -> None:
    answers = hb.integrations.ray.generate_many(
        "smollm2",
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        workers=hb.integrations.ray.Pool(workers=2, num_cpus=1),
        budget=hb.Budget(tokens=240),
        watch=print,
    )
    for prompt, answer in zip(prompts, answers, strict=True):
        print(f"\n{prompt}\n{answer.text} ({len(answer.token_ids)} tokens, {answer.finish_reason})")
    print(f"\n{answers.progress}")


if __name__ == "__main__":
    main()
