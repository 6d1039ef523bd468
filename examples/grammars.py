"""Answers that fit a JSON schema, by the logits processors that xgrammar and outlines made for transformers.

pip install 'hornbeam[demo]' xgrammar outlines
"""

import json

import torch

import hornbeam as hb

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "is_capital": {"type": "boolean"}},
        "required": ["city", "is_capital"],
    }
)


def by_xgrammar(model, tokenizer, schema: str):
    """What makes a processor for one text, or for one batch. The grammar is compiled once."""
    import xgrammar
    from xgrammar.contrib.hf import LogitsProcessor

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=model.config.vocab_size)
    grammar = xgrammar.GrammarCompiler(info).compile_json_schema(schema, any_whitespace=False)
    return lambda: LogitsProcessor(grammar)


def by_outlines(model, tokenizer, schema: str):
    """The same of outlines."""
    import outlines
    from outlines.backends import get_json_schema_logits_processor

    wrapped = outlines.from_transformers(model, tokenizer)
    return lambda: get_json_schema_logits_processor("outlines_core", wrapped, schema)


if __name__ == "__main__":
    lm = hb.LM.from_pretrained("smollm2")
    chats = [[{"role": "user", "content": f"Describe {city} as JSON."}] for city in ("Paris", "Lyon", "Bonn")]
    prompts = [
        lm.tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats
    ]
    for grammar in (by_xgrammar, by_outlines):
        make = grammar(lm.model, lm.tokenizer, SCHEMA)
        # One prompt, one processor.
        print(lm.generate(prompts[0], max_new_tokens=40, logits_processor=make()).text)
        # Several prompts, or samples: one each.
        each = hb.EachPrompt(lambda index, prompt_ids, make=make: make())
        print([out.text for out in lm.generate(prompts, max_new_tokens=40, logits_processor=each)])
        # Inside of transformers, where a processor serves one call, whatever its batch.
        ids = torch.tensor([prompts[0]])
        options = dict(attention_mask=torch.ones_like(ids), max_new_tokens=40, logits_processor=[make()])
        loop = hb.integrations.transformers.generate
        print(lm.tokenizer.decode(lm.model.generate(ids, custom_generate=loop, **options)[0, ids.shape[1] :]))
