"""What ``attar best`` says: the table of all within the limits, and the sentences below it."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines import gates
from pipelines.as_good import MARGIN
from pipelines.best import UNKNOWN, Choice
from pipelines.candidates import Candidate
from pipelines.printing import whole
from pipelines.report import COLUMNS, interval
from pipelines.signs import SIGNS, Kind, legend

SHOWN = {  # of the report's columns, each with the measure that it tells
    "size": "bytes",
    "retained\nquality": "headline",
    "KL\nnats": "kl",
    "decode\ntok/s": "decode",
}
MOST = 6  # of the front in a sentence


def show(console: Console, choice: Choice) -> None:
    """All within the limits, the best first; then what to take. Where they came from stands beside or below."""
    wide = whole(console)
    table = _table(choice, beside=True)
    if choice.few:
        console.print(f"nothing here is beyond doubt: {choice.few}", highlight=False, markup=False, soft_wrap=True)
    needed = wide.measure(table, options=wide.options.update(width=1000)).maximum
    wide.print(table if needed <= wide.width else _table(choice, beside=False))
    for line in _sentences(choice):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(choice: Choice, beside: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(choice.group.label), title_justify="left")
    texts = dict(COLUMNS)
    varied = any(one.run in choice.variants for one in choice.listed)
    sources = ("variant", "recipe", "run", "fingerprint")[not varied :]
    limited = [name for name in choice.limited if name not in SHOWN.values()]
    for heading in ("", "model", *SHOWN, *limited, *(sources if beside else ())):
        table.add_column(heading, justify="right" if heading in (*SHOWN, *limited) else "left", no_wrap=True)
    alike = {one.row.fingerprint for one in choice.alike}
    for one in choice.listed:
        name, variant = one.row.fingerprint, choice.variants.get(one.run, "")
        kind = _kind(choice, one)
        mark = (SIGNS[kind] if kind else "") + (SIGNS["alike"] if name in alike else "")
        style = "bold" if one is choice.winner else "dim" if name in choice.breaches else ""
        source = [Text(told or "–") for told in (variant, one.recipe, one.run, name)[not varied :]]
        model = Text("\n".join([one.row.name, *filter(None, () if beside else (variant, one.run, name))]))
        shown = [texts[heading](one.row) for heading in SHOWN]
        shown += [gates.shown(measure, choice.limited[measure][name]) for measure in limited]
        table.add_row(mark, model, *shown, *(source if beside else ()), style=style)
    return table


def _kind(choice: Choice, one: Candidate) -> Kind | None:
    """What a model's sign says."""
    if one.refused:
        return "refused"
    if one is choice.smallest:
        return "chosen"
    return "on-front" if one in choice.front else None


def _sentences(choice: Choice) -> list[str]:
    winner, smallest = choice.winner, choice.smallest
    refused = [one for one in choice.listed if one.refused]
    best = "best by its value alone" if choice.few else "best"
    told = [_ranked(choice), f"{best}: {choice.label(winner)}, in {winner.row.folder}", *_besides(choice)]
    if choice.equals > 1:
        end = " (retained quality ends at 100 %)" if winner.retained == 1 else ""
        order = "the smallest of them is best, of equal sizes that of the lowest perplexity"
        told.append(f"{choice.equals} keep as much{end}: {order}")
    if choice.alike:
        names = ", ".join(map(choice.label, choice.alike))
        told.append(f"{SIGNS['alike']} {UNKNOWN} from it (paired over documents, all pairs tested together): {names}")
    if choice.larger:
        told.append(f"larger, and not beyond doubt worse: {', '.join(map(choice.label, choice.larger))}")
    if choice.unscored:
        names = ", ".join(map(choice.label, choice.unscored))
        told.append(f"no scores of the same documents, token for token, so not compared with it: {names}")
    told += [f"✗ refused by a gate, so not offered: {choice.label(one)} ({one.refused})" for one in refused]
    points = f"{100 * choice.margin:g} {'point' if choice.margin == MARGIN else 'points'} of headline"
    if smallest is not winner:
        told.append(
            f"the smallest that loses less than {points} against it beyond doubt: {choice.label(smallest)}, "
            f"{smallest.bytes / 1e6:.1f} MB, in {smallest.row.folder}"
        )
    elif choice.blind:
        told.append(choice.blind)
    elif not choice.few and any(one.bytes < winner.bytes for one in choice.alike):
        told.append(f"of no smaller one it is beyond doubt that it loses less than {points} against it (--margin)")
    kinds = {kind for one in choice.listed if (kind := _kind(choice, one))}
    signs = legend(kinds | ({"alike"} if choice.alike else set()))
    told.append(f"{signs}; a model's folder is store/model/FINGERPRINT in the home")
    if choice.others:
        other = choice.others[0]
        known = sorted({name for found in choice.others for name in found.recipes})
        count = sum(len(found.candidates) for found in choice.others)
        chosen = f"; --recipe chooses: {', '.join(known[:8])}" if known else ""
        told.append(f"not ranked with these: {count} measured otherwise, such as those of {other.label}{chosen}")
    return told


def _ranked(choice: Choice) -> str:
    """What was ranked, and what was left out."""
    within = sum(bool(one.run) for one in choice.fitting) - len(choice.last)
    count = f"{len(choice.fitting)} {'model' if len(choice.fitting) == 1 else 'models'}"
    steps = f", {within} of them {'a step' if within == 1 else 'steps'} within runs" if within else ""
    if not choice.asked:
        return f"ranked: {count}{steps}; no limit was given"
    told = f"ranked: {count} within {' and '.join(gate.rule for gate in choice.asked)}{steps}"
    told += "".join(f"; {count} {'lacks' if count == 1 else 'lack'} {name}" for name, count in choice.unasked)
    if outside := choice.outside:
        first = min(outside, key=lambda one: bool(one.refused))
        why = choice.breaches[first.row.fingerprint]
        told += f"; left out: {len(outside)} outside the limits, the best of them {choice.label(first)} ({why})"
    return told


def _besides(choice: Choice) -> list[str]:
    """What to take if it has to be smaller, and what ``attar report`` would put first, which knows no steps."""
    smallest, told = choice.smallest, []
    last = choice.last
    if last and choice.winner not in last:
        first = last[0]
        step = "that is a step within its run; " if choice.winner.run else ""
        told.append(
            f"{step}of the last models of runs, which attar report compares, the best is {choice.label(first)}, "
            f"{first.bytes / 1e6:.1f} MB, {interval(first.row)}"
        )
    smaller = [one for one in reversed(choice.front) if one.bytes < smallest.bytes and one in choice.fitting]
    if smaller:
        names = [f"{choice.label(one)}, {one.bytes / 1e6:.1f} MB, {interval(one.row)}" for one in smaller[:MOST]]
        more = f"; and {len(smaller) - MOST} more" if len(smaller) > MOST else ""
        told.append(f"◆ smaller, and nothing as small is better: {'; '.join(names)}{more}")
    return told
