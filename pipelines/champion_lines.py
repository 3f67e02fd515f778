"""The lines of models in MLflow's registry: versions without copies, the champion's alias, and the way back."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attar.errors import AttarError, BadInput, StageFailed, first_line, nearest
from pipelines import champion, mlflow_models
from pipelines.champion import Champion, Decision, Standing
from pipelines.home import Home
from pipelines.mlflow_registry import shown, versions
from pipelines.mlflow_words import name_of
from pipelines.printing import whole

CHAMPION, CHALLENGER = "champion", "challenger"
BEFORE = "champion.before"  # the version that a champion took the place of
REASON = "champion.reason"
BACK = "champion.rolled_back"  # when; such a version does not become champion again by itself
FIGURES = "attar.figures"
MAX_TAG = 5000


@dataclass(frozen=True)
class Version:
    """A version of a line, as people look at it."""

    version: str
    alias: str
    headline: float | None
    bytes: float | None
    reason: str
    run: str
    folder: str


class Lines:
    """The registry that belongs to a home."""

    def __init__(self, home: Home, client: MlflowClient) -> None:
        self.home = home
        self.client = client

    @classmethod
    def open(cls, home: Home) -> "Lines":
        """Raises :class:`BadInput` where nothing can have been registered yet."""
        if home.mlflow_uri.startswith("sqlite:///") and not Path(home.mlflow_uri.removeprefix("sqlite:///")).is_file():
            raise BadInput(f"nothing is registered in {home.root}; a recipe with champion: {{line: NAME}} does that")
        return cls(home, MlflowClient(tracking_uri=home.mlflow_uri))

    def names(self) -> list[str]:
        """All lines that have a version of ours."""
        with _asked(self.home):
            return sorted({str(one.name) for one in versions(self.client) if FIGURES in one.tags})

    def versions(self, line: str) -> list[Version]:
        """The newest first."""
        with _asked(self.home):
            found = self._found(line)
            aliases = {version: alias for alias, version in sorted(self._aliases(line).items(), reverse=True)}
        return [_version(one, aliases.get(str(one.version), "")) for one in found.values()]

    def consider(self, policy: Champion, row: Mapping[str, Any], run: str, mlflow_run: str, experiment: str) -> str:
        """Register a run's final model, unless the line has it, and give it the alias that it deserves.

        May be called again with the same: a version is found by its fingerprints, and decided upon anew.

        Returns:
            What came of it, as a sentence.
        """
        line = str(policy.line)
        with self.home.store.lock(f"champion-{line}"):
            there = self._found(line, known=False)
            names = {"fingerprint": str(row["fingerprint"]), "evaluation": str(row["evaluation"])}
            version = next((one for one in there.values() if names.items() <= one.tags.items()), None)
            if version is None:
                tags = names | {"folder": str(row["folder"]), "attar.run": run}
                # Rolled back is a model, however often it is measured.
                same = [one.tags for one in there.values() if one.tags.get("fingerprint") == names["fingerprint"]]
                back = next((found[BACK] for found in same if BACK in found), None)
                tags |= {BACK: back} if back else {}
                tags[FIGURES] = json.dumps(champion.figures(row))
                version = self._register(line, tags, mlflow_run, experiment)
            number = str(version.version)
            while True:  # the lock is this home's; another home of the same registry may crown meanwhile
                now = self._aliases(line).get(CHAMPION)
                if now == number:
                    return f"{line} {number} is the champion already"
                present = self._found(line).get(now or "")
                decision = self._decide(policy, version, present)
                if self._aliases(line).get(CHAMPION) == now:
                    break
            self.client.set_model_version_tag(line, number, REASON, decision.reason[:MAX_TAG])
            if decision.crowned:
                self._crown(line, number, str(present.version) if present else None)
            else:
                self.client.set_registered_model_alias(line, CHALLENGER, number)
            return f"{line} {number} is {CHAMPION if decision.crowned else CHALLENGER}: {decision.reason}"

    def roll_back(self, line: str) -> str:
        """Make the champion before the present one champion again."""
        with _asked(self.home), self.home.store.lock(f"champion-{line}"):
            found = self._found(line)
            present = found.get(self._aliases(line).get(CHAMPION, ""))
            if present is None:
                raise BadInput(f"{line} has no champion; choose one with: attar champion {line} --to VERSION")
            before = found.get(present.tags.get(BEFORE, ""))
            if before is None:
                raise BadInput(
                    f"{line} {present.version} is the champion, and there is none before it to go back to; possible: "
                    f"attar champion {line} --to VERSION, of {', '.join(found)}"
                )
            old, new = str(present.version), str(before.version)
            self.client.set_model_version_tag(line, old, BACK, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            self.client.set_registered_model_alias(line, CHAMPION, new)
            return f"{line} {new} is the champion again; {old} was rolled back and will not become it by itself"

    def crown(self, line: str, number: str) -> str:
        """Make a version the champion by hand."""
        with _asked(self.home), self.home.store.lock(f"champion-{line}"):
            found = self._found(line)
            if number not in found:
                raise BadInput(f"{line} has no version {number}; possible: {', '.join(found)}")
            present = self._aliases(line).get(CHAMPION)
            if present == number:
                raise BadInput(f"{line} {number} is the champion already")
            if BACK in found[number].tags:
                self.client.delete_model_version_tag(line, number, BACK)
            self.client.set_model_version_tag(line, number, REASON, "made champion by hand")
            self._crown(line, number, present)
            return f"{line} {number} is the champion now"

    def _crown(self, line: str, number: str, before: str | None) -> None:
        """The way back is written down first."""
        if before is not None:
            self.client.set_model_version_tag(line, number, BEFORE, before)
        self.client.set_registered_model_alias(line, CHAMPION, number)
        if self._aliases(line).get(CHALLENGER) == number:
            self.client.delete_registered_model_alias(line, CHALLENGER)

    def _decide(self, policy: Champion, new: ModelVersion, present: ModelVersion | None) -> Decision:
        if BACK in new.tags:
            return Decision(False, f"was rolled back at {new.tags[BACK]}; only by hand does it become champion again")
        try:
            return champion.decide(policy, self._standing(new), self._standing(present) if present else None)
        except (AttarError, ValueError, KeyError) as error:  # a damaged evaluation is not worth a journal
            return Decision(False, f"the two cannot be compared: {first_line(error)}")

    def _standing(self, version: ModelVersion) -> Standing:
        name = f"{version.name} {version.version}"
        figures = json.loads(version.tags.get(FIGURES, "{}"))
        return Standing.read(name, figures, version.tags.get("evaluation", "none"), self.home.store)

    def _found(self, line: str, known: bool = True) -> dict[str, ModelVersion]:
        """Number → version, the newest first; a line that must be known and is not is told."""
        if not champion.is_line(line):
            raise BadInput(f"the line {line!r} is not possible; possible: letters, digits, dot, dash and underscore")
        found = {str(one.version): one for one in versions(self.client, f"name='{line}'")}
        if known and not found:
            names = {str(one.name) for one in versions(self.client)}
            raise BadInput(f"there is no line {line!r} in MLflow; {nearest(line, names) if names else 'it has none'}")
        return dict(sorted(found.items(), key=lambda entry: -int(entry[0])))

    def _aliases(self, line: str) -> dict[str, str]:
        return {alias: str(number) for alias, number in self.client.get_registered_model(line).aliases.items()}

    def _register(self, line: str, tags: dict[str, str], mlflow_run: str, experiment: str) -> ModelVersion:
        """A version whose weights stay where they are: MLflow learns their folder."""
        logged = mlflow_models.keep(self.client, experiment, mlflow_run, name_of(line), tags)
        try:
            self.client.create_registered_model(line)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # A database in this process would look a models:/ address up in whatever MLflow is the global one.
        source = f"models:/{logged.model_id}" if self.home.mlflow_uri.startswith("http") else logged.artifact_location
        made = self.client.create_model_version(line, source, mlflow_run, tags, model_id=logged.model_id)
        number = str(made.version)
        link = json.dumps([{"name": line, "version": number}])  # the model's page leads to the version
        self.client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: link})
        return self.client.get_model_version(line, number)


@contextmanager
def _asked(home: Home) -> Iterator[None]:
    """What MLflow cannot answer is a sentence."""
    try:
        yield
    except AttarError:
        raise
    except Exception as error:  # a server that is down, a wrong password, a database of another version
        raise StageFailed(f"MLflow at {shown(home)} does not answer as asked ({first_line(error)})") from None


def show(console: Console, line: str, found: list[Version]) -> None:
    """A line's versions with their standing."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=line, title_justify="left")
    for heading in ("version", "", "headline", "size", "run", "folder", "because"):
        table.add_column(heading, justify="right" if heading in ("headline", "size") else "left")
    for one in found:
        headline = "–" if one.headline is None else f"{100 * one.headline:.1f} %"
        size = "–" if one.bytes is None else f"{one.bytes / 1e6:.1f} MB"
        style = "bold" if one.alias == CHAMPION else ""
        texts = (Text(one.run), Text(one.folder, overflow="fold"), Text(one.reason))
        table.add_row(one.version, one.alias, headline, size, *texts, style=style)
    whole(console).print(table)


def _version(found: ModelVersion, alias: str) -> Version:
    figures = json.loads(found.tags.get(FIGURES, "{}"))
    reason = found.tags.get(REASON, "")
    if BACK in found.tags:
        reason = f"rolled back at {found.tags[BACK]}"
    told = (found.tags.get("attar.run", ""), found.tags.get("folder", ""))
    return Version(str(found.version), alias, figures.get("headline"), figures.get("bytes"), reason, *told)
