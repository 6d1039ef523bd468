"""An answer that fits a JSON schema, drafted and verified under the same grammar.

pip install 'hornbeam[demo,grammar]'
"""

import json

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

if __name__ == "__main__":
    lm = hb.LM.from_pretrained("smollm2")
    chat = [{"role": "user", "content": "Describe Paris as JSON with city, country and capital."}]
    grammar = hb.integrations.llguidance.json_schema(lm, SCHEMA)
    draft = hb.spec.LayerSkip(exit_layer=24)  # masked like the target, so no row is wasted on it
    out = lm.generate(chat, max_new_tokens=80, draft=draft, logits_processor=grammar)
    print(json.loads(out.text), out.stats.accepted, "tokens from drafts")
