"""Tokens per second of detection's sampling against `model.generate` called one text at a time.

    python bench/detect.py [MODEL] [--texts 64] [--tokens 256] [--batch-size 64] [--rounds 3]

Both sample the model's own distribution (temperature 1, no top_p, no top_k, no penalty) from the
same start token for the same number of tokens each (the end token is allowed and does not end a
text here, so that the work is equal), in one process, in turns; medians over the rounds.
`generate` is given fewer texts, as it is slow; what is compared is tokens per second. Without
MODEL the demo's base model is taken. Target: 3 x.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
TARGET = 3.0
DEMO = Path(__file__).parent.parent / "src/lamina/demo/models/base"


def main() -> int:
    arguments = _arguments()
    import torch

    from lamina.engine.generate import sample
    from lamina.engine.load import find_model, load_network, load_tokenizer, quiet
    from lamina.versatune.subject import open_subject

    source = find_model(arguments.model)
    with quiet():
        tokenizer = load_tokenizer(source)
        network = load_network(source, getattr(torch, arguments.dtype))
    to_device: Any = network.to
    to_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    network.eval()
    subject = open_subject(network, tokenizer)
    start = torch.tensor([[subject.start_id]], device=network.device)
    length = min(arguments.tokens, subject.positions or arguments.tokens)

    def ours() -> int:
        texts = sample(
            network,
            start_id=subject.start_id,
            eos_id=None,
            num_texts=arguments.texts,
            seed=0,
            max_new_tokens=length,
            batch_size=arguments.batch_size,
        )
        return sum(map(len, texts))

    def theirs() -> int:
        count = 0
        for _ in range(arguments.theirs):
            with torch.inference_mode():
                out = network.generate(
                    start,
                    attention_mask=torch.ones_like(start),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=length,
                    min_new_tokens=length,
                    pad_token_id=tokenizer.pad_token_id or 0,
                )
            count += out.shape[1] - 1
        return count

    runs: dict[str, list[float]] = {"lamina": [], "generate": []}
    for number in range(arguments.rounds + 1):  # the first round only warms up
        for name, work in (("lamina", ours), ("generate", theirs)):
            rate = _rate(work)
            if number:
                runs[name].append(rate)
    rates = {name: statistics.median(values) for name, values in runs.items()}
    ratio = rates["lamina"] / rates["generate"]
    print(
        f"{Path(arguments.model).name}, {arguments.dtype} on {network.device}, "
        f"{torch.get_num_threads()} threads, {length} tokens a text, batch {arguments.batch_size}"
    )
    for name, rate in rates.items():
        low, high = min(runs[name]), max(runs[name])
        print(f"{name:10}{rate:12.0f} tokens per second ({low:.0f} to {high:.0f})")
    print(f"ratio {ratio:.1f} (target {TARGET:g}): {'met' if ratio >= TARGET else 'MISSED'}")
    return int(ratio < TARGET)


def _rate(work: Callable[[], int]) -> float:
    began = time.perf_counter()
    tokens = work()
    return tokens / (time.perf_counter() - began)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(DEMO))
    parser.add_argument("--texts", type=int, default=64, help="texts sampled by lamina")
    parser.add_argument("--theirs", type=int, default=4, help="texts sampled by generate")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a text")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
