"""The reliability cases of data (D), training (T), checkpoints (C) and launching (L), and the table of what proves each of them.

A test says by `@pytest.mark.case("C-07")` which cases it proves; case_table.py hears how the tests end.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CASES = {
    "D-01": "a shard that is cut off anywhere gives its whole samples, the others are named and counted",
    "D-02": "every flipped bit is found",
    "D-03": "checksums slow the loading of decoded clips by a tenth at most",
    "D-04": "archives that are not ours are refused in one line and write nothing",
    "D-05": "few bad samples are skipped and counted, many end the run",
    "D-06": "threads, prefetch and cache change no batch",
    "D-07": "epochs differ, and each sample comes once in each, over all ranks",
    "D-08": "global batches are the same for every world size and number of workers",
    "D-09": "stopped after any batch, the stream goes on as if it had not been",
    "D-10": "so it does when that happens again and again",
    "D-11": "so it does at another world size",
    "D-12": "at 99 % of 5 GB the first batch takes at most 2 s more than at the beginning",
    "D-13": "every rank gets as many batches as the others, whatever the number of shards",
    "D-14": "a shard that vanishes or changes during training is named",
    "D-15": "reads that fail for a moment or stall for two seconds lose, repeat and reorder nothing",
    "D-16": "a writer killed at 50 places leaves nothing half under its name, and the same bytes in the end",
    "D-17": "preparing tasks that are killed at random leave every shard once, bit for bit",
    "D-18": "what kills a worker of the loader is named and nothing hangs",
    "D-19": "10,000 steps with 4 workers grow memory by less than 5 %",
    "D-20": "recorded rows are what was done, the cursor is within 1 px, frames are at most 5 ms late",
    "D-21": "an episode in which a program dies is discarded and cleaned up, and the next one begins",
    "D-22": "codecs are as exact as they say, in every window of every clip",
    "D-23": "importers are exact in fields, rate and alignment, and report bad rows",
    "D-24": "unmodified WebDataset reads the same samples",
    "T-01": "killed at steps 7, 19 and 33 of 40 and started again, a run ends at the same bits",
    "T-02": "ZeRO 0 to 3 agree with one process over 20 steps",
    "T-03": "losses do not depend on how a global batch is divided over ranks and micro-batches",
    "T-04": "a step that is not finite on one rank is applied on none and named with its samples",
    "T-05": "after five such steps the run goes back and past the data, and gives up in the end",
    "T-06": "a loss spike is skipped once and training returns to its level",
    "T-07": "the average equals a float64 reference at every ZeRO stage, saved and loaded too",
    "T-08": "a rank that hangs is found in time, with the stacks of all ranks",
    "T-09": "a straggler is named with its phase, and nobody is named without reason",
    "T-10": "told to stop on one rank, all ranks save at the same step",
    "T-11": "out of memory on a GPU is a clean failure",
    "T-12": "an exception on one rank ends all, its traceback first",
    "T-13": "every attention backend agrees with the reference, forward and backward",
    "T-14": "the whole miniature runs without a GPU and without a network",
    "T-15": "sampling and distillation repeat themselves bit for bit",
    "T-16": "five minutes of kills: the undisturbed loss curve, at least 70 % goodput",
    "T-17": "another config is refused field by field, unless a field is allowed",
    "T-18": "logs that cannot be written cost no training",
    "C-01": "killed at every place and at 200 random times, the newest whole checkpoint is found",
    "C-02": "a checkpoint whose files are not all there is never visible",
    "C-03": "a flipped byte is found before use, and the checkpoint before takes over",
    "C-04": "missing, added and cut files are found and named",
    "C-05": "a full disk costs checkpoints and not the run",
    "C-06": "so do an I/O error and a read-only disk",
    "C-07": "retention never deletes the newest verified checkpoint nor what is not ours",
    "C-08": "what is written beside the training has the values of the moment of the call",
    "C-09": "killed while it is written beside the training, nothing torn is published",
    "C-10": "what one world size saved, another takes up exactly",
    "C-11": "what one ZeRO stage saved, another takes up exactly",
    "C-12": "saved before any step, and saved again once loaded, it is the same",
    "C-13": "a second run in a folder is refused, and a killed run's folder is free",
    "C-14": "ranks agree on the newest checkpoint where a listing is late",
    "C-15": "an export loads by itself and draws the same frames",
    "C-16": "an export that dies leaves the old one whole",
    "C-17": "checkpoints of another format are loaded or explained",
    "C-18": "what Ray remembers decides nothing: the newest intact checkpoint on disk does",
    "C-19": "saving blocks training for less than a fifth of a plain save",
    "C-20": "no byte too many: no optimizer in exports, no second copy in checkpoints",
    "L-01": "20 of 20 killed workers are replaced, in 20 s as the median",
    "L-02": "a killed node leaves the rest training",
    "L-03": "without its head a run ends in bounded time and goes on when submitted again",
    "L-04": "workers leave and come back, the global batches stay",
    "L-05": "a notice of pre-emption is followed by a checkpoint",
    "L-06": "an error of the user's is not tried for ever",
    "L-07": "another config under the same name is refused with a hint",
    "L-08": "the SLURM script is valid, waits, forwards signals and requeues on one code only",
    "L-09": "the KubeRay manifests fit their definitions, with tokens, limits and an end",
    "L-10": "nodes that do not come are named when the time is over",
    "L-11": "the network interface is said and can be chosen",
    "L-12": "versions that differ between nodes are listed",
    "L-13": "a run that is stopped leaves no process behind",
    "L-14": "the doctor has a line that helps for each fault, in less than a minute",
    "L-15": "time-outs are ours and are printed",
    "L-16": "logs say rank, node and step, and show the first failure first",
}

# What no test proves, or not all of it: why.
REMARKS = {
    "T-11": "needs a GPU whose memory can be filled",
    "C-17": "there is one format so far",
    "L-13": "four moments on Ray instead of fifty, which `WM_STOPS=50` tries",
}


@dataclass
class Proof:
    """The tests of one function that carry a case, by how they ended."""

    passed: int = 0
    failed: int = 0
    not_run: int = 0
    skipped: dict[str, None] = field(default_factory=dict)  # reasons
    commits: dict[str, None] = field(default_factory=dict)  # at which they ran


def table(proofs: Mapping[str, Mapping[str, Proof]]) -> str:
    """Markdown: a line for each case with its result, its tests and what is to be said of it.

    `proofs` has for each case that tests carry a proof by function.
    """
    ran = Counter(commit for tests in proofs.values() for proof in tests.values() for commit in proof.commits)
    usual = ran.most_common(1)[0][0] if ran else ""
    rows = [row(case, proofs.get(case), usual) for case in CASES]
    lines = [
        "# Reliability cases",
        "",
        "Written by `make test-slow`, or from several runs (`tests/case_table.py`). A test says which cases it proves with",
        "`@pytest.mark.case`; `tests/cases.py` lists them.",
        "",
        f"{sum(result == 'pass' for _, _, result, _ in rows)} of {len(rows)} pass, "
        f"{sum(result == 'pass, in part' for _, _, result, _ in rows)} in part."
        + (f" Tests ran at commit {usual} where nothing else is said." if usual else ""),
        "",
        "| case | what must hold | result | tests, and what they leave open |",
        "|---|---|---|---|",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in rows),
    ]
    return "\n".join(lines) + "\n"


def row(case: str, proofs: Mapping[str, Proof] | None, usual: str = "") -> tuple[str, str, str, str]:
    remark = REMARKS.get(case, "")
    if proofs is None:
        return case, CASES[case], "no test", remark
    tests = [_said(name, proof, usual) for name, proof in sorted(proofs.items())]
    notes = [", ".join(tests), *reasons(proofs.values()), remark]
    return case, CASES[case], result_of(proofs.values(), bool(remark)), "; ".join(note for note in notes if note)


def _said(name: str, proof: Proof, usual: str) -> str:
    counts = [str(proof.passed)] if proof.passed > 1 else []
    counts += [f"{proof.failed} failed"] if proof.failed else []
    counts += [f"{proof.not_run} not run"] if proof.not_run else []
    counts += [f"at {commit}" for commit in proof.commits if commit != usual]
    return f"`{name}`" + (f" ({', '.join(counts)})" if counts else "")


def result_of(proofs: Iterable[Proof], remarked: bool) -> str:
    found = list(proofs)
    if any(proof.failed for proof in found):
        return "**fail**"
    if any(proof.passed for proof in found):
        return "pass, in part" if remarked or any(proof.skipped or proof.not_run for proof in found) else "pass"
    return "skipped" if any(proof.skipped for proof in found) else "not run"


def reasons(proofs: Iterable[Proof]) -> list[str]:
    return list(dict.fromkeys(f"skipped: {reason}" for proof in proofs for reason in proof.skipped))
