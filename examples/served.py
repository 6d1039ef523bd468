"""Two chats and a JSON answer from one server, at the same time. Its address is what OpenAI's client takes.

pip install 'hornbeam[demo,serve]' httpx
"""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx

import hornbeam as hb
from hornbeam.serve import create_app, run

SYSTEM = {"role": "system", "content": "You are a guide in a forest of hornbeams."}
PLANT = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 16}, "evergreen": {"type": "boolean"}},
    "required": ["name", "evergreen"],
    "additionalProperties": False,
}


def ask(url: str, question: str, **fields) -> str:
    body = {"model": "smollm2", "messages": [SYSTEM, {"role": "user", "content": question}], **fields}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body | {"seed": 1}, timeout=600).json()
    return answer["choices"][0]["message"]["content"]


if __name__ == "__main__":
    lm = hb.LM.from_pretrained("smollm2")
    found, is_ready = [], threading.Event()

    def ready(url: str) -> None:
        found.append(url)
        is_ready.set()

    app = create_app(lm, name="smollm2")
    # In a program of its own: hornbeam serve. Ctrl-C ends that; this thread ends with the program.
    threading.Thread(target=run, args=(app,), kwargs={"port": 0, "ready": ready}, daemon=True).start()
    is_ready.wait()
    form = {"type": "json_schema", "json_schema": {"name": "plant", "schema": PLANT}}
    with ThreadPoolExecutor() as pool:
        trees = pool.submit(ask, found[0], "Which trees are here?", max_tokens=24)
        birds = pool.submit(ask, found[0], "Which birds are here?", max_tokens=24)
        plant = pool.submit(ask, found[0], "Describe a plant as JSON.", max_tokens=48, response_format=form)
    print(trees.result(), birds.result(), json.loads(plant.result()), sep="\n")
