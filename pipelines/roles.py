"""The models beside the origin that play a part in a chain: students and teachers that its stages name."""

from attar.architecture import require_length
from attar.errors import BadInput, nearest
from pipelines.chain import Link
from pipelines.following import Watch
from pipelines.home import Home
from pipelines.materials import Material, open_model


class Roles:
    """Says who learns and who teaches in a stage; opens every named model once.

    Args:
        origin: the recipe's model.
        complete: named models must have their weights (to run); otherwise a config will do (to plan).
        watch: hears of the conversion of a named model.
    """

    def __init__(self, origin: Material, home: Home, complete: bool, watch: Watch) -> None:
        self.origin = origin
        self.home = home
        self.complete = complete
        self.watch = watch
        self.named: dict[str, Material] = {}

    def student(self, link: Link) -> Material | None:
        """The model that a stage works on instead of the previous one, if it names one."""
        spec = link.stage.student_spec()
        return None if spec is None else self._named(link, "student", spec, ("carved", "previous", "fresh"))

    def teacher(self, link: Link, source: Material, previous: Material) -> Material | None:
        """The model that teaches in a stage, if one does, or a sentence why it cannot teach there.

        Args:
            source: what the stage works on.
            previous: what comes out of the stage before it; differs from ``source`` where the stage names a student.
        """
        stage = link.stage
        spec = stage.teacher_spec()
        if spec is None:
            return None
        parts = {"origin": self.origin, "previous": previous}
        teacher = parts.get(spec) or self._named(link, "teacher", spec, tuple(parts))
        if stage.makes == "dataset":
            return teacher  # answers are text: any tokenizer will do
        for _, length in stage.tokens().values():
            asked = f"{link.where}: {stage.stage}: length={length} for the teacher {spec}"
            require_length(teacher.facts.config, length, asked)
        taught_itself = teacher.ref.fingerprint == source.ref.fingerprint and stage.starts_as_source(source.facts)
        if taught_itself and getattr(stage, "alpha", 0) == 1:
            raise BadInput(
                f"{link.where}: {stage.stage}: the teacher {spec} is the very model that would learn, so there is "
                "nothing to learn at alpha=1; put the stage after one that changes the model, or lower alpha"
            )
        if why := teacher.facts.apart(source.facts):
            raise BadInput(
                f"{link.where}: {stage.stage}: {why} of the teacher {spec} and the student, so their next-token "
                "distributions cannot be compared; choose a teacher with the same tokenizer.json and vocabulary, or "
                "let this one write answers with generate.responses and learn from them with distill.response"
            )
        return teacher

    def _named(self, link: Link, role: str, spec: str, words: tuple[str, ...]) -> Material:
        """The model that a stage names; ``words`` could stand in its place, and one of them may have been meant."""
        if spec not in self.named:
            try:
                self.named[spec] = open_model(spec, self.origin.facts.task, self.home, self.complete, self.watch)
            except BadInput as error:
                meant = f"; or a word, {nearest(spec, words)}" if spec.isalpha() else ""
                raise BadInput(f"{link.where}: {link.stage.stage}: {role}: {error}{meant}") from None
        return self.named[spec]
