"""Outputs that front ends read are given back exactly once, and never while one of them has yet to read."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from steelyard.core.commands import Complete, OutputPart, ReleaseOutputs
from steelyard.core.events import BatchCompleted
from steelyard.core.types import RequestId, Tensor, TensorRef
from steelyard.serve.link.holds import Holds

REPLICAS = (1, 2)


def outputs_of(replica_id: int, batch_id: int) -> tuple[Tensor, ...]:
    """Of one batch; the batch's number is the generation, which is never used twice."""
    ref = TensorRef(f"replica-{replica_id}", 64, 8, batch_id)
    return (Tensor("y", "FP32", (2,), ref), Tensor("z", "FP32", (2,), ref._replace(offset=320)))


class HoldsMachine(RuleBasedStateMachine):
    """Batches end, answers are sent, read, and their front ends and replicas die, in any order.

    The model: for each front end how many answers were sent and read, and for each batch the last answer to
    each front end that lies in it.
    """

    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        self.given_back: list[ReleaseOutputs] = []
        self.holds = Holds(self.given_back.append)
        self.sent: dict[int, int] = {}
        self.read: dict[int, int] = {}
        self.readers: dict[tuple[int, int], dict[int, int]] = {}
        self.outputs: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        self.since: dict[int, int] = {}
        """Batches made before each front end started: none of its requests is in them."""
        self.asked: set[tuple[int, int]] = set()
        self.alive = set(REPLICAS)
        self.front_ends = self.made = 0

    @initialize()
    def one_front_end(self) -> None:
        self.start()

    @precondition(lambda self: len(self.sent) < 3)
    @rule()
    def start(self) -> None:
        self.front_ends += 1
        self.sent[self.front_ends] = self.read[self.front_ends] = 0
        self.since[self.front_ends] = self.made
        self.holds.add(self.front_ends)

    @precondition(lambda self: self.alive)
    @rule(target=batches, data=st.data(), has_outputs=st.booleans())
    def end_batch(self, data: st.DataObject, has_outputs: bool) -> tuple[int, int]:
        replica_id = data.draw(st.sampled_from(sorted(self.alive)))
        self.made += 1
        outputs = outputs_of(replica_id, self.made) if has_outputs else ()
        self.outputs[replica_id, self.made] = outputs
        self.holds.made(BatchCompleted(self.made, replica_id, 0.0, 1.0, outputs))
        self.readers[replica_id, self.made] = {}
        return replica_id, self.made

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), some=st.lists(batches, min_size=1, max_size=3, unique=True))
    def answer(self, data: st.DataObject, some: list[tuple[int, int]]) -> None:
        """The machine names outputs only as long as it has not given them up."""
        front_end = data.draw(st.sampled_from(sorted(self.sent)))
        some = [
            (replica_id, made)
            for replica_id, made in some
            if (replica_id, made) not in self.asked
            and replica_id in self.alive
            and made > self.since[front_end]
        ]
        self.sent[front_end] += 1
        for batch in filter(self.outputs.get, some):
            self.readers[batch][front_end] = self.sent[front_end]
        parts = tuple(OutputPart(self.outputs[batch], 0, 1) for batch in some)
        self.holds.sent(
            front_end, Complete(RequestId(front_end, 1), "v", 0.0, 0.0, False, {"run": parts, "other": ()})
        )

    @rule(batch=consumes(batches))
    def give_up(self, batch: tuple[int, int]) -> None:
        """Each batch is given up once, whether its replica still lives or not."""
        self.asked.add(batch)
        self.holds.release(ReleaseOutputs(*batch))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        front_end = data.draw(st.sampled_from(sorted(self.sent)))
        count = data.draw(st.integers(self.read[front_end], self.sent[front_end]))
        self.read[front_end] = count
        self.holds.read(front_end, count)
        assert self.holds.progress(front_end) == (count, self.sent[front_end] - count)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def lose_front_end(self, data: st.DataObject) -> None:
        front_end = data.draw(st.sampled_from(sorted(self.sent)))
        del self.sent[front_end], self.read[front_end]
        self.holds.lost(front_end)
        self.holds.lost(front_end)  # twice is once

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def lose_replica(self, data: st.DataObject) -> None:
        replica_id = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.discard(replica_id)
        self.holds.gone(replica_id)

    @invariant()
    def each_is_given_back_when_all_have_read_it_and_once(self) -> None:
        found = [(command.replica_id, command.batch_id) for command in self.given_back]
        assert len(found) == len(set(found))
        waits = {
            batch
            for batch in self.asked
            if any(number > self.read.get(who, number) for who, number in self.readers[batch].items())
        }
        # Of a replica that was gone before its batch was given up, nobody waits: there is nothing to keep.
        assert waits & set(found) <= {batch for batch in found if batch[0] not in self.alive}
        assert self.asked - waits == set(found) - waits

    def teardown(self) -> None:
        for front_end in tuple(self.sent):
            self.holds.lost(front_end)
        assert {(one.replica_id, one.batch_id) for one in self.given_back} == self.asked
        assert len(self.given_back) == len(self.asked)
        for replica_id in REPLICAS:
            self.holds.gone(replica_id)
        assert self.holds.is_empty


TestHolds = HoldsMachine.TestCase
TestHolds.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
