"""Ask models what they take and give, in one short-lived process.

The server itself never makes a session: ONNX Runtime's threads and memory belong to workers, and a zygote
must stay free of them to fork. Specs go in on standard input, an answer a line comes out as soon as it is
known, so that a model whose loading kills the process takes no other one's answer with it. Whoever asked may
be stopped meanwhile: then nobody hears the answer, and the process ends without a word.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from signal import Signals

import msgspec

from steelyard.core.errors import ModelError
from steelyard.runtime.base import Signature, VariantSpec
from steelyard.runtime.registry import make


def inspect(specs: Sequence[VariantSpec], *, timeout_s: float = 120.0) -> list[Signature | str]:
    """The signature of each variant, or, of one that does not load, the reason in one line.

    User classes are looked for where this process looks for modules, as workers do. One process for all;
    another one only for those after a model that killed it.
    """
    answers: list[Signature | str] = []
    while len(answers) < len(specs):
        rest = specs[len(answers) :]
        try:
            child = subprocess.run(
                [sys.executable, "-m", "steelyard.runtime.inspect"],
                input=msgspec.json.encode((sys.path, rest)),
                stdout=subprocess.PIPE,
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
                timeout=timeout_s,
                check=False,
                start_new_session=True,  # ^C at the terminal is for us, who then end it
            )
            lines, fate = child.stdout, _fate(child.returncode)
        except subprocess.TimeoutExpired as expired:
            lines, fate = expired.stdout or b"", f"not loaded within {timeout_s:g} s"
        found = [msgspec.json.decode(line, type=Signature | str) for line in lines.split(b"\n")[:-1]]
        answers += found
        if len(found) < len(rest):
            answers.append(f"variant {rest[len(found)].name}: {rest[len(found)].target}: {fate}")
    return answers


def _fate(returncode: int) -> str:
    if returncode < 0:
        return f"loading it killed the process ({Signals(-returncode).name})"
    return f"loading it ended the process (exit status {returncode})"


def answer(spec: VariantSpec) -> Signature | str:
    """Load one variant here, and unload it."""
    try:
        runtime = make(spec)
        signature = runtime.signature
        runtime.close()
    except ModelError as error:
        return str(error)
    return signature


def main() -> None:
    """Answer each spec of standard input; what models print goes to standard error."""
    out = os.dup(1)
    os.dup2(2, 1)
    sys.path[:], specs = msgspec.json.decode(
        sys.stdin.buffer.read(), type=tuple[list[str], list[VariantSpec]]
    )
    with contextlib.suppress(BrokenPipeError):
        for spec in specs:
            os.write(out, msgspec.json.encode(answer(spec)) + b"\n")


if __name__ == "__main__":
    main()
