import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.control.ledger import Ledger, quantise
from steelyard.core.snapshot import CoreShare


def ledger(cores: int = 4, *, fractional: bool = False) -> Ledger:
    made = Ledger()
    made.join("n", tuple(range(cores)), fractional=fractional)
    return made


def test_whole_cores_are_taken_lowest_first() -> None:
    made = ledger()
    assert made.allocate(1, "n", 2.0) == (CoreShare(0, 1.0), CoreShare(1, 1.0))
    assert made.allocate(2, "n", 1.0) == (CoreShare(2, 1.0),)
    assert made.free("n") == 1.0


def test_what_is_not_there_is_not_promised() -> None:
    made = ledger(2)
    made.allocate(1, "n", 1.0)
    assert made.allocate(2, "n", 2.0) is None
    assert made.grow(1, 3.0) is None
    assert made.free("n") == 1.0
    assert made.grow(1, 2.0) == (CoreShare(0, 1.0), CoreShare(1, 1.0))


def test_parts_of_a_core_fill_up_before_a_fresh_one_is_broken() -> None:
    made = ledger(3, fractional=True)
    made.allocate(1, "n", 0.5)  # core 0
    made.allocate(2, "n", 0.75)  # does not fit beside it: core 1
    assert made.allocate(3, "n", 0.25) == (CoreShare(1, 0.25),)  # the smallest remainder that suffices
    assert made.allocate(4, "n", 1.25) == (CoreShare(0, 0.25), CoreShare(2, 1.0))


def test_a_whole_core_may_come_in_pieces_where_parts_are_enforced() -> None:
    made = ledger(2, fractional=True)
    made.allocate(1, "n", 0.5)
    made.allocate(2, "n", 0.75)  # core 1
    assert made.allocate(3, "n", 0.75) == (CoreShare(0, 0.5), CoreShare(1, 0.25))


def test_growth_completes_the_core_that_is_held_in_part() -> None:
    made = ledger(2, fractional=True)
    made.allocate(1, "n", 0.5)
    assert made.grow(1, 1.5) == (CoreShare(0, 1.0), CoreShare(1, 0.5))


def test_a_shrink_frees_when_it_is_confirmed() -> None:
    made = ledger(2)
    made.allocate(1, "n", 2.0)
    kept = made.shrunk(1, 1.0)
    assert kept == (CoreShare(0, 1.0),)
    assert made.free("n") == 0.0
    made.hold(1, kept)
    assert made.free("n") == 1.0


def test_a_newcomer_overlaps_one_core_of_a_host_that_then_lets_go_of_it() -> None:
    made = ledger(2)
    made.allocate(1, "n", 2.0)
    assert made.allocate(2, "n", 1.0) is None  # nobody is about to let go
    assert made.allocate(2, "n", 1.0, hosts=(1,)) == (CoreShare(1, 1.0),)
    assert made.overlaps(2)
    assert made.free("n") == 0.0
    assert made.shrunk(1, 1.0) == (CoreShare(0, 1.0),)  # gives up the overlapped core, not its own
    made.hold(1, made.shrunk(1, 1.0))
    assert not made.overlaps(2)


def test_one_core_is_all_that_a_newcomer_may_overlap() -> None:
    made = ledger(4)
    made.allocate(1, "n", 4.0)
    assert made.allocate(2, "n", 2.0, hosts=(1,)) is None
    assert made.allocate(2, "n", 1.0, hosts=(1,)) is not None
    assert made.allocate(3, "n", 1.0, hosts=(1,)) == (CoreShare(2, 1.0),)  # never two on one core
    assert made.allocate(4, "n", 1.0, hosts=(2,)) is None  # a guest is no host


def test_a_guest_moves_to_a_core_that_has_become_free() -> None:
    made = ledger(2)
    made.allocate(1, "n", 1.0)
    made.allocate(2, "n", 1.0)
    made.allocate(3, "n", 1.0, hosts=(1,))  # on core 0
    assert made.move(3) is None
    made.release(2)
    assert made.move(3) == (CoreShare(1, 1.0),)
    assert made.overlaps(3)  # until it is confirmed: a move can be refused
    assert made.free("n") == 0.0
    made.hold(3, (CoreShare(1, 1.0),))
    assert not made.overlaps(3)


def test_a_refused_move_leaves_everything_as_it_was() -> None:
    made = ledger(2)
    made.allocate(1, "n", 1.0)
    made.allocate(2, "n", 1.0)
    made.allocate(3, "n", 1.0, hosts=(1,))
    made.release(2)
    made.move(3)
    made.hold(3, (CoreShare(0, 1.0),))
    assert made.overlaps(3)
    assert made.free("n") == 1.0


def test_gone_is_free_and_twice_does_no_harm() -> None:
    made = ledger(1)
    made.allocate(1, "n", 1.0)
    made.release(1)
    made.release(1)
    assert made.free("n") == 1.0
    assert made.shares(1) == ()


def test_a_copy_is_independent() -> None:
    made = ledger(2)
    made.allocate(1, "n", 1.0)
    twin = made.copy()
    twin.allocate(2, "n", 1.0)
    assert made.free("n") == 1.0
    assert twin.free("n") == 0.0


@pytest.mark.parametrize("cores", [0.5, 1.25])
def test_parts_on_a_node_without_them_are_our_own_bug(cores: float) -> None:
    with pytest.raises(AssertionError, match="without parts of a core"):
        ledger().allocate(1, "n", cores)


def test_an_over_commitment_is_our_own_bug() -> None:
    made = ledger(2)
    made.allocate(1, "n", 1.0)
    made.allocate(2, "n", 1.0)
    with pytest.raises(AssertionError, match="promised 200 %"):
        made.hold(2, (CoreShare(0, 1.0),))


def test_a_node_may_not_withdraw_cores_that_are_held() -> None:
    made = ledger(2)
    made.allocate(1, "n", 2.0)
    with pytest.raises(AssertionError, match="withdrew cores"):
        made.join("n", (0,), fractional=False)


wishes = st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0.0, 0.25, 0.4, 1.0, 1.5, 2.0])), max_size=30)


@given(wishes)
def test_every_core_is_held_once_and_nothing_gets_lost(moves: list[tuple[int, float]]) -> None:
    made = ledger(3, fractional=True)
    held: dict[int, float] = {}
    for replica_id, cores in moves:
        if replica_id not in held:
            if made.allocate(replica_id, "n", cores) is not None:
                held[replica_id] = cores
        elif cores == 0.0:
            made.release(replica_id)
            del held[replica_id]
        elif cores >= held[replica_id]:
            if made.grow(replica_id, cores) is not None:
                held[replica_id] = cores
        else:
            made.hold(replica_id, made.shrunk(replica_id, cores))
            held[replica_id] = cores
        made.check()
        assert {r: made.cores(r) for r in held} == {r: quantise(c) for r, c in held.items()}
        assert made.free("n") == pytest.approx(3.0 - sum(held.values()))
