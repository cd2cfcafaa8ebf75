"""Encoded messages against protobuf, our descriptors against tritonclient's and against the compiler."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.serve.grpc.generate import HERE, compiled
from steelyard.serve.grpc.messages import InferRequest, InferResponse, StreamInferResponse, methods
from steelyard.serve.grpc.wire import FIELDS_MAX, in_stream, split, varint, with_raw_outputs


@given(st.lists(st.binary(max_size=300), max_size=4), st.text(max_size=200))
def test_a_request_is_taken_apart_at_its_raw_contents(raw: list[bytes], name: str) -> None:
    message = InferRequest(model_name=name, id="7", raw_input_contents=raw)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    message.parameters["timeout"].int64_param = -5
    head, found = split(message.SerializeToString())
    assert [bytes(view) for view in found] == raw
    del message.raw_input_contents[:]
    assert InferRequest.FromString(head) == message


def test_raw_contents_may_be_anywhere() -> None:
    """Protobuf's fields may come in any order: here between the name and the id."""
    parts = [
        InferRequest(model_name="m"),
        InferRequest(raw_input_contents=[b"ab", b""]),
        InferRequest(id="i"),
    ]
    head, raw = split(b"".join(part.SerializeToString() for part in parts))
    assert [bytes(view) for view in raw] == [b"ab", b""]
    assert InferRequest.FromString(head) == InferRequest(model_name="m", id="i")


@given(st.lists(st.lists(st.binary(max_size=200), max_size=3), max_size=3))
def test_an_answer_is_put_together(outputs: list[list[bytes]]) -> None:
    head = InferResponse(model_name="m", id="7")
    answer = with_raw_outputs(
        head.SerializeToString(), [[memoryview(piece) for piece in pieces] for pieces in outputs]
    )
    head.raw_output_contents.extend(b"".join(pieces) for pieces in outputs)
    assert InferResponse.FromString(answer) == head
    assert StreamInferResponse.FromString(in_stream(answer)) == StreamInferResponse(infer_response=head)


@given(st.integers(0, 2**63 - 1))
def test_numbers_are_those_of_protobuf(value: int) -> None:
    message = InferRequest()
    message.parameters["n"].uint64_param = value
    assert varint(value) in message.SerializeToString()


@given(st.binary(max_size=100))
def test_whatever_comes_is_taken_apart_or_refused(data: bytes) -> None:
    try:
        head, raw = split(data)
    except InputError:
        return
    assert len(head) + sum(map(len, raw)) <= len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x3a\x05abc",  # a raw tensor of 5 bytes, of which 3 are there
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of more than 10 bytes
        b"\x3a",  # a field without its length
        b"\x0d\x00\x00",  # four bytes, of which two are there
        b"\x0b",  # a group, which proto3 does not have
    ],
)
def test_a_broken_message_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="cannot be decoded"):
        split(data)


def test_the_number_of_fields_is_bounded() -> None:
    with pytest.raises(InputError, match=f"over {FIELDS_MAX} inputs"):
        split(b"\x3a\x00" * (FIELDS_MAX + 1))


def wire_names(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    """What the wire and a stub see of a message's fields."""
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED,
            field.containing_oneof.name if field.containing_oneof else None,
            (field.message_type or field.enum_type or field).full_name,
        )
        for field in descriptor.fields
    }


def all_messages(descriptor: Any) -> dict[str, Any]:
    found = {descriptor.full_name: descriptor}
    for nested in descriptor.nested_types:
        found.update(all_messages(nested))
    return found


def test_every_field_is_numbered_and_typed_as_in_tritonclient() -> None:
    """Its stubs are in protobuf's default pool, under the same names, in this very process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stubs that were generated for an earlier protobuf
        stubs = importlib.import_module("tritonclient.grpc.service_pb2")
        config = importlib.import_module("tritonclient.grpc.model_config_pb2")
    theirs: dict[str, Any] = {}
    for module in (stubs, config):
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            theirs.update(all_messages(descriptor))
    ours: dict[str, Any] = {}
    for descriptor in InferRequest.DESCRIPTOR.file.message_types_by_name.values():
        ours.update(all_messages(descriptor))
    for name, message in ours.items():
        known = wire_names(theirs[name])
        assert {field: known.get(field) for field in wire_names(message)} == wire_names(message), name
    (service,) = stubs.DESCRIPTOR.services_by_name.values()
    assert set(methods(service.full_name)) == {method.name for method in service.methods}
    for method in service.methods:
        asked, answered = methods(service.full_name)[method.name]
        assert asked.DESCRIPTOR.full_name == method.input_type.full_name
        assert answered.DESCRIPTOR.full_name == method.output_type.full_name


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    assert compiled(tmp_path / "again.binpb") == (HERE / "protocol.binpb").read_bytes()
