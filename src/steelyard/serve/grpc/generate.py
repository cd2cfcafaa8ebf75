"""Compile `proto/*.proto` into `protocol.binpb`; needs grpcio-tools.

python -m steelyard.serve.grpc.generate
"""

from pathlib import Path

HERE = Path(__file__).parent


def compiled(target: Path) -> bytes:
    """The descriptors of all files of `proto`, as they would be stored in `target`.

    Raises:
        RuntimeError: a file is wrong; the compiler has said how on standard error.
    """
    from grpc_tools import protoc

    sources = sorted(str(path) for path in (HERE / "proto").glob("*.proto"))
    status = protoc.main(["protoc", f"-I{HERE / 'proto'}", f"--descriptor_set_out={target}", *sources])
    if status:
        raise RuntimeError(f"protoc ended with {status}")
    return target.read_bytes()


if __name__ == "__main__":
    compiled(HERE / "protocol.binpb")
