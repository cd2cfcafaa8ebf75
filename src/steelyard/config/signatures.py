"""What a stage takes and gives: its variants must agree."""

from typing import NamedTuple

from steelyard.config.schema import VariantEntry
from steelyard.config.source import Path, Source, nearest
from steelyard.config.wiring import agree
from steelyard.core.errors import ModelError
from steelyard.runtime.base import Signature, TensorSpec, VariantSpec
from steelyard.runtime.example import tensor_shape


class Member(NamedTuple):
    """A variant of a stage: its path in the spec, what the spec says of it, and what its model says."""

    path: Path
    entry: VariantEntry
    spec: VariantSpec
    signature: Signature


Members = list[Member]


def agreed(members: Members, source: Source) -> Signature:
    """The signature that all variants of a stage share.

    Any of them may be given what comes, so that a size is open in an input only if it is for all. Sizes of
    outputs may differ: that one is dynamic.

    Raises:
        SpecError: names, dtypes, ranks or sizes of inputs differ, or an input's shape is known from neither
            model nor example.
    """
    first = members[0]
    _check_rows(members, source)
    for member in members:
        _check_examples(member, source)
    inputs = list(first.signature.inputs)
    outputs = list(first.signature.outputs)
    for member in members[1:]:
        inputs = _merged("input", inputs, member.signature.inputs, first, member, source)
        outputs = _merged("output", outputs, member.signature.outputs, first, member, source)
    of_rows = [member.signature.batchable for member in members]
    if any(of_rows) and not all(of_rows):  # the stage takes one row then, whichever variant answers
        inputs = [TensorSpec(each.name, each.dtype, (1, *each.shape[1:])) for each in inputs]
    return Signature(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        batchable=all(of_rows),
        platform=first.signature.platform,
    )


def shape_buckets(
    members: Members, signature: Signature, source: Source
) -> dict[str, tuple[int, tuple[int, ...]]]:
    """The shape buckets of a stage: those of its variants, which must agree.

    Raises:
        SpecError: buckets of an input or dimension that the model does not have, or that differ.
    """
    takes = {tensor.name: tensor for tensor in signature.inputs}
    buckets: dict[str, tuple[int, tuple[int, ...]]] = {}
    for path, entry, _, _ in members:
        for name, given in entry.buckets.items():
            at = (*path, "buckets", name)
            if name not in takes:
                raise source.error(at, f"not an input of the model{nearest(name, tuple(takes))}")
            if given.dim >= len(takes[name].shape):
                raise source.error((*at, "dim"), f"want less than {len(takes[name].shape)}, got {given.dim}")
            if buckets.setdefault(name, (given.dim, given.sizes)) != (given.dim, given.sizes):
                raise source.error(
                    at, "the variants of a model share their buckets, these differ from the first's"
                )
    return buckets


def _check_examples(member: Member, source: Source) -> None:
    """Every dynamic dimension but the leading one has an example, and no example is for an unknown input."""
    takes = tuple(tensor.name for tensor in member.signature.inputs)
    for name in member.entry.example:
        if takes and name not in takes:
            raise source.error(
                (*member.path, "example", name), f"not an input of the model{nearest(name, takes)}"
            )
    for tensor in member.signature.inputs:
        try:
            tensor_shape(member.spec, member.signature, tensor, 1)
        except ModelError as error:
            hint = "" if source.is_file else " in a spec file; --print-spec starts one"
            raise source.error((*member.path, "example"), f"{error}{hint}") from None


def _merged(
    what: str,
    known: list[TensorSpec],
    tensors: tuple[TensorSpec, ...],
    first: Member,
    member: Member,
    source: Source,
) -> list[TensorSpec]:
    """The tensors of two variants as one, in the first's order."""
    theirs = {tensor.name: tensor for tensor in tensors}
    if set(theirs) != {tensor.name for tensor in known}:
        names = ", ".join(tensor.name for tensor in known)
        message = f"{what}s are {', '.join(theirs)}, those of variant {first.spec.name} are {names}"
        raise source.error(member.path, message)
    merged = []
    for tensor in known:
        other = theirs[tensor.name]
        shape = (_narrowed if what == "input" else _widened)(tensor.shape, other.shape)
        if other.dtype != tensor.dtype or shape is None:
            message = (
                f"{what} {tensor.name} is {other.dtype} {list(other.shape)}, "
                f"that of variant {first.spec.name} is {tensor.dtype} {list(tensor.shape)}"
            )
            raise source.error(member.path, message)
        merged.append(TensorSpec(tensor.name, tensor.dtype, shape))
    return merged


def _widened(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...] | None:
    """What both shapes are; None if their ranks differ."""
    if len(one) != len(other):
        return None
    return tuple(a if a == b else -1 for a, b in zip(one, other, strict=True))


def _narrowed(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...] | None:
    """What fits both shapes; None if nothing does.

    Unlike along a wire, the leading dimension must agree as well: both are given the same.
    """
    if not agree(one, other) or (one and -1 not in (one[0], other[0]) and one[0] != other[0]):
        return None
    return tuple(max(sizes) for sizes in zip(one, other, strict=True))


def _check_rows(members: Members, source: Source) -> None:
    """Where some variants have a leading axis of rows, the others can take a single one.

    Raises:
        SpecError: one takes another fixed number.
    """
    names = [member.spec.name for member in members if member.signature.batchable]
    for path, _, _, signature in members:
        for tensor in signature.inputs:
            if names and tensor.shape[:1] not in ((-1,), (1,)):
                message = (
                    f"input {tensor.name} is {tensor.dtype} {list(tensor.shape)}, and variant {names[0]} "
                    "takes rows: want a leading dimension that is dynamic, or 1"
                )
                raise source.error(path, message)
