"""How accurate an answer is, for the variants that gave it: as measured end to end, or else a product.

- Where a combination was measured (`Service.path_accuracies`), that counts: the entry that names most stages
  among those whose variants all agree, the first of equals.
- Else it is the product of the stages' own accuracies: an estimate, which takes errors to be independent.
  (Measurements contradict it: Loki's published table has 0.72 where the product says 0.97.)
- A stage's only variant counts as 1 where nobody has said: it is given, whatever it is, and the other stages'
  accuracies were found with it. If nobody has said anything of any stage, nothing is known.
- A stage that did not run, for want of items, does not count.
- Where several variants have answered rows of one request at a stage, it is the mean over the rows, each
  stage's taken to be independent of the others': which items of which row met which variant is not kept.
"""

from collections.abc import Mapping
from itertools import product

from steelyard.core.types import Service

CACHE_MAX = 4096
"""Combinations remembered."""

MIXED_MAX = 256
"""Combinations that one request's mean is taken over; stages beyond count by the variant of most rows."""

Estimate = tuple[float | None, bool]
"""(accuracy, whether it was measured end to end); None: not known."""


class Accuracies:
    """Of one service's answers.

    Attributes:
        is_known: something is known of some stage, or of some path.
    """

    def __init__(self, service: Service) -> None:
        self._measured = sorted(service.path_accuracies, key=lambda entry: -len(entry.variants))
        self._of_stage: dict[str, dict[str, float | None]] = {
            stage.name: {variant.name: variant.accuracy for variant in stage.variants}
            for stage in service.stages
        }
        known = [value for stage in self._of_stage.values() for value in stage.values() if value is not None]
        self.is_known = bool(known or self._measured)
        for variants in self._of_stage.values():
            if len(variants) == 1 and known:
                for name, accuracy in variants.items():
                    variants[name] = 1.0 if accuracy is None else accuracy
        self._estimates: dict[tuple[tuple[str, str], ...], Estimate] = {}

    def of(self, variants: Mapping[str, str]) -> Estimate:
        """Of an answer, by the variants of the stages that ran."""
        if not self.is_known:
            return None, False
        key = tuple(variants.items())
        found = self._estimates.get(key)
        if found is None:
            if len(self._estimates) >= CACHE_MAX:
                self._estimates.clear()
            found = self._estimates[key] = self._estimate(variants)
        return found

    def mean(self, variants: Mapping[str, str], rows_by: Mapping[str, Mapping[str, int]]) -> Estimate:
        """Of an answer that several variants have given.

        Args:
            variants: of the stages that ran, each that of most rows.
            rows_by: rows by variant, of the stages at which there were several.
        """
        stages: list[str] = []
        shares: list[list[tuple[str, float]]] = []
        count = 1
        for stage, rows in rows_by.items():
            if count * len(rows) <= MIXED_MAX:
                count *= len(rows)
                total = sum(rows.values())
                stages.append(stage)
                shares.append([(variant, answered / total) for variant, answered in rows.items()])
        mean, is_measured = 0.0, True
        for chosen in product(*shares):
            names = [variant for variant, _ in chosen]
            accuracy, is_path = self.of({**variants, **dict(zip(stages, names, strict=True))})
            if accuracy is None:
                return None, False
            share = 1.0
            for _, part in chosen:
                share *= part
            mean += share * accuracy
            is_measured = is_measured and is_path
        return mean, is_measured

    def of_variant(self, stage: str, variant: str) -> float:
        """Of one variant alone; 0 where nobody knows."""
        return self._of_stage[stage].get(variant) or 0.0

    def most(self, variants: Mapping[str, str], product: float) -> float:
        """No completion of a choice is more accurate, if its product is at most `product`."""
        for entry in self._measured:
            if entry.accuracy > product and _agree(entry.variants, variants):
                product = entry.accuracy
        return product

    def _estimate(self, variants: Mapping[str, str]) -> Estimate:
        for entry in self._measured:
            if all(variants.get(stage) == variant for stage, variant in entry.variants.items()):
                return entry.accuracy, True
        product = 1.0
        for stage, variant in variants.items():
            accuracy = self._of_stage[stage].get(variant)
            if accuracy is None:
                return None, False
            product *= accuracy
        return product, False


def _agree(wanted: Mapping[str, str], chosen: Mapping[str, str]) -> bool:
    """Whether what was chosen so far does not contradict a combination."""
    return all(chosen.get(stage, variant) == variant for stage, variant in wanted.items())
