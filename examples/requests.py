"""Requests that come and go on one engine: each step is one forward pass for all of them."""

import hornbeam as hb

engine = hb.LM.from_pretrained("smollm2").engine
story = engine.submit("Once upon a time", max_new_tokens=40, temperature=0.8, seed=1)
fact = engine.submit("The capital of France is", max_new_tokens=12)
for _ in range(6):
    engine.step()
left, right = story.fork(2)  # two ends of one beginning; its pages are held once
for request in (fact, left, right):
    print(repr(request.result().text))
print(repr(fact.extend(" The capital of Italy is", max_new_tokens=8).result().text))

chat = engine.submit([{"role": "user", "content": "Name a tree."}], max_new_tokens=40)
print(chat.result().text)
print(chat.extend([{"role": "user", "content": "And another one?"}]).result().text)
