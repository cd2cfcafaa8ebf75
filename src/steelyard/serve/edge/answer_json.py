"""What an answer's JSON consists of, as typed structs: they are what `msgspec` writes fastest."""

import msgspec


class AnswerParameters(msgspec.Struct, omit_defaults=True):
    """What an answer says of itself; what is not known, or does not apply, is left out.

    Attributes:
        variant: that answered the last stage.
        queue_ms: it waited.
        service_ms: it was served.
        variants: `stage:variant,...`, where there are several stages.
        variant_rows: `stage:variant=rows,...`, of the stages at which several variants answered.
        accuracy: estimated for those variants, the mean over the rows.
        accuracy_measured: it was measured end to end; otherwise the product of the stages'.
        core_ms: core-milliseconds spent on it.
        bounds_missed: names of the request's own bounds that were missed, comma-separated.
    """

    variant: str
    queue_ms: float
    service_ms: float
    variants: str = ""
    accuracy: float | None = None
    accuracy_measured: bool | None = None
    core_ms: float | None = None
    bounds_missed: str = ""
    variant_rows: str = ""


class BinarySize(msgspec.Struct):
    """Of an output whose bytes follow the JSON."""

    binary_data_size: int


class SharedSize(msgspec.Struct, omit_defaults=True):
    """Of an output that was written to shared memory."""

    shared_memory_region: str
    shared_memory_byte_size: int
    shared_memory_offset: int = 0


class OutputHead(msgspec.Struct, omit_defaults=True):
    """One output; without data where its bytes are elsewhere."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: BinarySize | SharedSize | None = None
    data: msgspec.Raw | None = None


class HeadStart(msgspec.Struct):
    """An answer's head up to what differs from one answer to the next."""

    model_name: str
    model_version: str
    outputs: list[OutputHead]
