"""A ragged batch decodes together, each prompt with the text that it would have alone."""

import hornbeam as hb

lm = hb.LM.from_pretrained("smollm2")
prompts = ["The capital of France is", "Water boils at", "def fibonacci(n):\n"]
for prompt, out in zip(
    prompts, lm.generate(prompts, max_new_tokens=30, temperature=0.7, seed=1), strict=True
):
    print(f"{prompt!r} -> {out.text!r} ({out.finish_reason})")
