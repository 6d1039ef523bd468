"""Three lines: load a model, give it a prompt, read the answer."""

import hornbeam as hb

lm = hb.LM.from_pretrained("smollm2")
out = lm.generate([{"role": "user", "content": "Why is the sky blue? Two sentences."}], max_new_tokens=80)
print(out.text)
print(f"{out.stats.emitted} tokens in {out.stats.forward_passes} forward passes")
