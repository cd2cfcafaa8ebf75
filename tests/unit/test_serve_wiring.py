"""Where a batch's inputs lie, on hand-made slices: rows, items, repeats, joins."""

import pytest
from msgspec.structs import replace

from steelyard.core.commands import ItemRows, OutputPart, Slice
from steelyard.core.errors import ModelError, SpecError
from steelyard.core.types import Condition, Input, Request, RequestId, Service, Stage, Tensor, TensorRef
from steelyard.runtime.base import Signature, TensorSpec
from steelyard.serve.wiring import Wiring, takers, wirings
from steelyard.worker.messages import WHOLE, Block, Feed, Taker

CROP = Stage("crop", (), inputs=(Input("x", "", "x"),))
READ = Stage(
    "read", (), ("crop",), items_of="crop", each="lines",
    inputs=(Input("line", "crop", "lines"), Input("page", "crop", "page"), Input("x", "", "x")),
)  # fmt: skip
JOIN = Stage("join", (), ("crop", "read"), inputs=(Input("texts", "read", "text"), Input("x", "", "x")))
SERVICE = Service("ocr", 1.0, (CROP, READ, JOIN))
SENT = Signature((TensorSpec("x", "FP32", (-1, 2)),), (), batchable=True)


def tensor(name: str, *shape: int, arena: str = "a") -> Tensor:
    return Tensor(name, "FP32", shape, TensorRef(arena, 64, 4, 1))


X = tensor("x", 4, 2, arena="front")
REQUEST = Request(RequestId(0, 1), "ocr", 4, "", 0.0, 1.0, tensors=(X,))
LINES, PAGE = tensor("lines", 9, 3), tensor("page", 6, 5)
# The request's rows 0-2 were rows 2-4 of one batch of six, its row 3 was row 0 of another.
FIRST = OutputPart((LINES, PAGE), 2, 3, {"@lines": ItemRows(4, (2, 0, 1)), "read": ItemRows(4, (2, 0, 1))})
OTHER = (tensor("lines", 3, 3, arena="b"), tensor("page", 1, 5, arena="b"))
SECOND = OutputPart(OTHER, 0, 1, {"@lines": ItemRows(0, (3,)), "read": ItemRows(0, (3,))})
CROPPED = {"crop": (FIRST, SECOND)}


def feeds(
    stage: Stage, *slices: Slice, service: Service = SERVICE, sent: Signature = SENT
) -> dict[str, Feed]:
    wired = Wiring(service, stage, sent, {}).feeds(slices, [REQUEST] * len(slices))
    return {feed.name: feed for feed in wired}


def piece(start: int, rows: int, **sources: tuple[OutputPart, ...]) -> Slice:
    return Slice(REQUEST.id, start, rows, {**CROPPED, **sources})


def test_items_go_one_by_one_and_the_rest_is_repeated_for_each() -> None:
    found = feeds(READ, piece(0, 6))
    assert found["line"] == Feed("line", (Block(LINES, 4, 3), Block(OTHER[0], 0, 3)))
    # two items of row 0, none of row 1, one of row 2; three of row 3
    assert found["page"].blocks == (Block(PAGE, 2, 3, (2, 0, 1)), Block(OTHER[1], 0, 1, (3,)))
    assert found["x"].blocks == (Block(X, 0, 4, (2, 0, 1, 3)),)


def test_a_piece_takes_its_items_and_the_rows_they_are_of() -> None:
    found = feeds(READ, piece(1, 3))  # the second item of row 0, that of row 2, the first of row 3
    assert found["line"].blocks == (Block(LINES, 5, 2), Block(OTHER[0], 0, 1))
    assert found["page"].blocks == (Block(PAGE, 2, 3, (1, 0, 1)), Block(OTHER[1], 0, 1))
    assert found["x"].blocks == (Block(X, 0, 4, (1, 0, 1, 1)),)


def test_slices_follow_each_other() -> None:
    found = feeds(READ, piece(5, 1), piece(0, 1))
    assert found["line"].blocks == (Block(OTHER[0], 2, 1), Block(LINES, 4, 1))
    assert found["x"].blocks == (Block(X, 3, 1), Block(X, 0, 1))


def test_selected_items_lie_in_an_output_of_their_own() -> None:
    chosen = tensor("lines@read", 2, 3)
    part = OutputPart(
        (LINES, chosen, PAGE), 0, 2, {"@lines": ItemRows(0, (5, 4)), "read": ItemRows(0, (0, 2))}
    )
    found = feeds(READ, piece(0, 2, crop=(part,)))
    assert found["line"].blocks == (Block(chosen, 0, 2),)
    assert found["page"].blocks == (Block(PAGE, 1, 1, (2,)),)


def test_a_join_takes_a_list_of_items_for_each_row() -> None:
    early, late = tensor("text", 8, 7), tensor("text", 2, 7, arena="c")
    read = (OutputPart((early,), 3, 4), OutputPart((late,), 0, 2))  # items 0-3 and 4-5 of the request
    found = feeds(JOIN, piece(0, 4, read=read))
    assert found["texts"] == Feed("texts", (Block(early, 3, 4), Block(late, 0, 2)), (2, 0, 1, 3))
    found = feeds(JOIN, piece(2, 2, read=read))  # rows 2 and 3 have items 2 and 3-5
    assert found["texts"] == Feed("texts", (Block(early, 5, 2), Block(late, 0, 2)), (1, 3))
    assert found["x"].blocks == (Block(X, 2, 2),)


def test_a_join_without_any_items_knows_their_type() -> None:
    none = OutputPart((LINES, PAGE), 0, 1, {"@lines": ItemRows(0, (0,)), "read": ItemRows(0, (0,))})
    gives = {"read": Signature((), (TensorSpec("text", "INT64", (-1, 7, -1)),), batchable=True)}
    wired = Wiring(SERVICE, JOIN, SENT, gives).feeds([piece(0, 1, crop=(none,), read=())], [REQUEST])
    nothing = Tensor("text", "INT64", (0, 7, 0), TensorRef("", 0, 0, 0))
    assert wired[0] == Feed("texts", (Block(nothing, 0, 0),), (0,))


def test_a_ragged_output_goes_row_by_row_and_is_repeated_row_by_row() -> None:
    glue = Stage("glue", (), ("crop",), inputs=(Input("lines", "crop", "lines"),))
    service = Service("ocr", 1.0, (CROP, glue))
    found = feeds(glue, piece(1, 3), service=service)["lines"]
    assert found == Feed("lines", (Block(LINES, 6, 1), Block(OTHER[0], 0, 3)), (0, 1, 3))
    picked = Stage("pick", (), ("crop",), items_of="crop", inputs=glue.inputs)  # rows 0 and 3
    parts = (replace(FIRST, items={**FIRST.items, "pick": ItemRows(0, (1, 0, 0))}),
             replace(SECOND, items={**SECOND.items, "pick": ItemRows(0, (1,))}))  # fmt: skip
    service = Service("ocr", 1.0, (CROP, picked))
    found = feeds(picked, piece(0, 2, crop=parts), service=service)["lines"]
    assert (found.counts, found.blocks) == ((2, 3), (Block(LINES, 4, 2), Block(OTHER[0], 0, 3)))


def test_a_fixed_fan_out_repeats_and_is_joined_by_it() -> None:
    twice = Stage("twice", (), fan_out=2, inputs=(Input("x", "", "x"),))
    join = Stage("join", (), ("twice",), inputs=(Input("y", "twice", "y"),))
    service = Service("ocr", 1.0, (twice, join))
    assert feeds(twice, piece(3, 3), service=service)["x"].blocks == (Block(X, 1, 2, (1, 2)),)
    y = tensor("y", 8, 2)
    found = feeds(join, piece(1, 2, twice=(OutputPart((y,), 0, 8),)), service=service)
    assert found["y"] == Feed("y", (Block(y, 2, 4),), (2, 2))


def test_an_input_without_a_row_axis_is_one_array_of_its_request() -> None:
    sent = Signature((TensorSpec("x", "FP32", (-1, -1)),), (), batchable=False)
    found = feeds(CROP, piece(0, 1), piece(0, 1), sent=sent)["x"]
    assert found == Feed("x", (Block(X, 0, WHOLE), Block(X, 0, WHOLE)), (4, 4))


def test_what_was_not_given_is_an_error_of_one_line() -> None:
    with pytest.raises(ModelError, match="stage crop has no page; it has lines"):
        feeds(READ, piece(0, 2, crop=(replace(FIRST, outputs=(LINES,)),)))
    bare = Stage("bare", (), ("crop",), inputs=(Input("page", "crop", "page"),))
    with pytest.raises(ModelError, match=r"crop\.page has 3 of 4 rows"):
        feeds(bare, piece(0, 4, crop=(FIRST,)), service=Service("ocr", 1.0, (CROP, bare)))


def test_items_of_another_kind_and_joins_without_their_maker_are_refused() -> None:
    other = Stage("other", (), ("crop", "read"), items_of="crop", each="words", inputs=JOIN.inputs)
    with pytest.raises(SpecError, match=r"stage other: input texts is read\.text, whose items are others"):
        Wiring(Service("ocr", 1.0, (CROP, READ, other)), other, SENT, {})
    join = Stage("join", (), ("read",), inputs=JOIN.inputs)
    with pytest.raises(SpecError, match="items of crop: want it to come after that, too"):
        Wiring(Service("ocr", 1.0, (CROP, READ, join)), join, SENT, {})


def test_workers_are_told_who_takes_their_items() -> None:
    legible = Condition("crop", "legible", ">", 0.5)
    chosen = Stage("read", (), ("crop",), items_of="crop", each="lines", when=legible, inputs=READ.inputs)
    service = Service("ocr", 1.0, (CROP, chosen, JOIN))
    assert takers(service) == {
        "crop": (Taker("read", "lines", legible, ("lines", "page")),), "read": (), "join": (),
    }  # fmt: skip
    alone = Service("one", 1.0, (Stage("only", ()),))
    assert (takers(alone), wirings(alone, SENT, {})) == ({}, {})
    assert list(wirings(SERVICE, SENT, {})) == ["crop", "read", "join"]
