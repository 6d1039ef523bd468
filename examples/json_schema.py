"""An answer that fits a JSON schema, drafted and verified under the same grammar.

pip install 'hornbeam[demo,grammar]'
"""

import json

import llguidance
import llguidance.hf
import numpy as np
import torch

import hornbeam as hb

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "country": {"type": "string", "maxLength": 20},
        "capital": {"type": "boolean"},
    },
    "required": ["city", "country", "capital"],
    "additionalProperties": False,
}


class Grammar:
    """A logits processor that rules out every token after which no text of the grammar remains. It is
    asked for one path of a draft after the other, so it steps back to where two paths part."""

    is_pure = True  # it may be asked about guesses: its answer depends on the tokens alone

    def __init__(self, tokenizer, prompt_length: int, schema: dict) -> None:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        self.matcher = llguidance.LLMatcher(llguidance.hf.from_tokenizer(tokenizer), grammar)
        self.prompt_length, self.seen = prompt_length, []

    def __call__(self, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        path = input_ids[0, self.prompt_length :].tolist()
        pairs = enumerate(zip(path, self.seen, strict=False))
        common = next((i for i, (a, b) in pairs if a != b), min(len(path), len(self.seen)))
        self.matcher.rollback(len(self.seen) - common)
        consumed = self.matcher.try_consume_tokens(path[common:])
        self.seen = path[: common + consumed]
        if self.matcher.is_stopped():  # the text has ended
            return logits
        bits = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: logits.shape[-1]].astype(bool))
        return logits.masked_fill(~allowed, -torch.inf)


if __name__ == "__main__":
    lm = hb.LM.from_pretrained("smollm2")
    chat = [{"role": "user", "content": "Describe Paris as JSON with city, country and capital."}]
    prompt = lm.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    draft = hb.spec.LayerSkip(exit_layer=24)  # masked like the target, so no row is wasted on it
    grammar = Grammar(lm.tokenizer, len(prompt), SCHEMA)
    out = lm.generate(prompt, max_new_tokens=80, draft=draft, logits_processor=grammar)
    print(json.loads(out.text), out.stats.accepted, "tokens from drafts")
