"""Which exported model of a root is the champion: a log of promotions, the last of which counts.

Each promotion is a file `.champion/NUMBER.json` below the root, written if there is none of that number:
the one condition that disks and all object stores can keep. So the pointer moves at once, of two that
would move it one fails, and every earlier champion is known.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal

from annotated_types import Gt
from pydantic import ValidationError

from turbosparse.artifacts.manifest import NameBelowRoot
from turbosparse.artifacts.numbered import NumberedFiles
from turbosparse.config.base import Config
from turbosparse.errors import ArtifactError

FOLDER = ".champion"


class Promotion(Config):
    """One move of the pointer."""

    number: Annotated[int, Gt(0)]
    champion: NameBelowRoot
    """The export artifact that is the champion from here on."""
    how: Literal["retrained", "named", "rolled back"]
    """A retraining's candidate held the gate, a person named it, or an earlier one came back."""
    back_to: Annotated[int, Gt(0)] | None = None
    """The promotion that a roll-back returned to."""
    verdict: NameBelowRoot | None = None
    """The verdict artifact of the gate, where there was one."""
    preset: str | None = None
    """The preset that the retraining ran with."""
    promoted_at: str
    """UTC, ISO 8601."""


class Champions:
    """The log of one root."""

    def __init__(self, root: str) -> None:
        self._files = NumberedFiles.open(root, FOLDER)

    def history(self) -> list[Promotion]:
        """Returns all promotions, oldest first.

        Raises:
            ArtifactError: An entry is not readable.
        """
        return [self._read(number) for number in range(1, self._files.last() + 1)]

    def standing(self) -> list[Promotion]:
        """Returns the promotions that a roll-back can return to, oldest first; the last is in force."""
        standing: list[Promotion] = []
        for promotion in self.history():
            if promotion.back_to is None:
                standing.append(promotion)
            else:
                standing = [earlier for earlier in standing if earlier.number <= promotion.back_to]
        return standing

    def current(self) -> Promotion | None:
        """Returns the promotion in force; None where the root has no champion yet."""
        return next(reversed(self.standing()), None)

    def withdrawn(self) -> set[str]:
        """Returns the export artifacts that a roll-back took from their place."""
        standing = {promotion.champion for promotion in self.standing()}
        return {promotion.champion for promotion in self.history()} - standing

    def promote(
        self,
        champion: str,
        how: Literal["retrained", "named"],
        after: int,
        verdict: str | None = None,
        preset: str | None = None,
    ) -> Promotion:
        """Makes an export artifact the champion.

        Args:
            champion: its `kind/identity`.
            how: who decided.
            after: number of the last promotion that the decision knew of; 0: none.
            verdict: the gate's artifact.
            preset: what the retraining ran with.

        Raises:
            ArtifactError: Another promotion came in between.
        """
        return self._append(after, champion=champion, how=how, verdict=verdict, preset=preset)

    def roll_back(self, to: int | None = None) -> Promotion:
        """Makes an earlier champion the champion again: the last one before the present by default.

        Raises:
            ArtifactError: There is no such promotion to return to, or another one came in between.
        """
        last, standing = self._files.last(), self.standing()
        earlier = {promotion.number: promotion for promotion in standing[:-1]}
        wanted = to if to is not None else max(earlier, default=0)
        if wanted not in earlier:
            known = ", ".join(map(str, earlier)) or "none there is"
            expected = f"an earlier promotion that stands ({known})"
            raise ArtifactError("roll back to", to, expected, "see turbosparse champion show")
        target = earlier[wanted]
        kept = {"champion": target.champion, "verdict": target.verdict, "preset": target.preset}
        return self._append(last, how="rolled back", back_to=wanted, **kept)

    def last_number(self) -> int:
        """Returns the number of the last promotion, whatever it was; 0 where there is none."""
        return self._files.last()

    def _append(self, after: int, **fields: object) -> Promotion:
        promotion = Promotion.model_validate(
            {"number": after + 1, "promoted_at": datetime.now(UTC).isoformat(), **fields}
        )
        if not self._files.create(promotion.number, promotion.model_dump_json(indent=2).encode()):
            raise ArtifactError(
                "champion",
                f"promotion {promotion.number} is taken",
                f"that promotion {after} is still the last one",
                "look at the champion that came in between, and decide again",
            )
        return promotion

    def _read(self, number: int) -> Promotion:
        try:
            return Promotion.model_validate_json(self._files.read(number))
        except ValidationError as error:
            path, remedy = self._files.path(number), "restore the file from a backup of the root"
            raise ArtifactError(path, error.errors()[0]["msg"], "a promotion", remedy) from error


def champions_artifacts(root: str) -> list[str]:
    """Returns what must stay in a root: every champion that a roll-back can return to, and its verdict."""
    standing = Champions(root).standing()
    return [name for found in standing for name in (found.champion, found.verdict) if name is not None]
