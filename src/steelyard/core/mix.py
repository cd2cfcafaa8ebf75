"""Which resident variant answers the next batch: the one whose served share lags its planned share most.

Every batch credits each variant with its share of the rows and debits the one that ran. Credits are capped,
so that a variant that could not run for a while (nowhere resident) does not take over when it comes back.
"""

from collections.abc import Sequence

from steelyard.core.plan import VariantShare

CREDIT_MAX_ROWS = 64.0


class VariantMix:
    """Shares of one stage and what has been served of them; ties go to the earlier entry.

    Args:
        shares: in the plan's order.
        is_whole: variants without a share count as well, in their place (`choice: fit` asks for no shares).

    Attributes:
        shares: those that count.
    """

    def __init__(self, shares: Sequence[VariantShare], *, is_whole: bool = False) -> None:
        self.shares = tuple(share for share in shares if share.share > 0 or is_whole)
        self.is_whole = is_whole
        self._places = {share.variant: place for place, share in enumerate(self.shares)}
        self._credit_rows = {share.variant: 0.0 for share in self.shares}

    def place(self, variant: str) -> int:
        """Where a variant stands in the plan's order; one that is not in it stands behind all."""
        return self._places.get(variant, len(self.shares))

    def ranked(self, resident: tuple[str, ...]) -> tuple[str, ...]:
        """Resident variants of the mix, the most lagging first; without any, whatever is resident."""
        if len(resident) == 1:
            return resident
        usable = self.usable(resident)
        if len(usable) == 1:
            return usable
        return tuple(
            sorted(usable, key=lambda variant: -self._credit_rows[variant])
        )  # stable: ties as planned

    def usable(self, resident: tuple[str, ...]) -> tuple[str, ...]:
        """Resident variants of the mix, in the plan's order; without any, whatever is resident."""
        if len(resident) == 1:
            return resident
        wanted = tuple(share.variant for share in self.shares if share.variant in resident)
        return wanted or resident[:1]

    def serve(self, variant: str, rows: int) -> None:
        """Account for one batch."""
        if len(self.shares) < 2:
            return
        for share in self.shares:
            credit = self._credit_rows[share.variant] + share.share * rows
            if share.variant == variant:
                credit -= rows
            self._credit_rows[share.variant] = min(max(credit, -CREDIT_MAX_ROWS), CREDIT_MAX_ROWS)
