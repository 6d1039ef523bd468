"""hornbeam as the decoding loop of transformers' own generate."""

import hornbeam as hb

lm = hb.LM.from_pretrained("smollm2")
inputs = lm.tokenizer("Once upon a time", return_tensors="pt")
output = lm.model.generate(
    **inputs, max_new_tokens=40, do_sample=False, custom_generate=hb.integrations.transformers.generate
)
print(lm.tokenizer.decode(output[0], skip_special_tokens=True))
