"""The model card of an entry, generated from its `entry.json`; nothing in it is written by hand."""

from pathlib import Path

from keras_robust.evaluation.metrics import Metric, radius
from keras_robust.files import write_atomically
from keras_robust.zoo.entry import CARD, ENTRY, Entry, sha256
from keras_robust.zoo.registry import citation

_LIMITS = (
    "Robust accuracies are upper bounds: a stronger attack can only lower them.",
    "They hold for the stated norm and epsilon, on the stated images, and say nothing about other data.",
)


def write_card(folder: str | Path) -> None:
    """Writes `card.md` of a folder from its `entry.json`."""
    write_atomically(Path(folder) / CARD, render_card(folder))


def card_is_current(folder: str | Path) -> bool:
    """Tells whether `card.md` says what `entry.json` says."""
    path = Path(folder) / CARD
    return path.is_file() and path.read_text(encoding="utf-8") == render_card(folder)


def render_card(folder: str | Path) -> str:
    """Returns the card of a folder as Markdown with the Hub's metadata in front."""
    entry = Entry.load(folder)
    sections = [
        f"---\n{_front_matter(entry)}\n---",
        f"# {entry.name}",
        entry.description,
        "A Keras 3 model for TensorFlow, JAX or PyTorch. It takes pixels in [0, 1], standardises them itself "
        "where it needs to, and returns logits.",
        "## How to load",
        f'```python\nfrom keras_robust import zoo\n\nmodel = zoo.load("{entry.name}")\n```',
        _from_hub(entry, Path(folder)),
        "## Threat model and numbers",
        _threats(entry),
        _numbers(entry.metrics),
        *_others(entry),
        "## Model and training",
        _facts(entry),
        "## Limits",
        "\n".join(f"- {limit}" for limit in (*_LIMITS, *entry.limits)),
        "## Citation",
        f"```bibtex\n{citation(Path(folder))}\n```",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _from_hub(entry: Entry, folder: Path) -> str:
    """Says how the published files load, the package's entry or not."""
    weights = entry.weights
    if weights.repository is None:
        return ""
    # An entry that names no commit lies there to be published; a commit cannot name itself.
    digest = weights.entry_sha256 if weights.revision else sha256(folder / ENTRY)
    pinned = f', sha256="{digest}"' if digest else ""
    which = "" if weights.revision else " `<commit>` is the newest of this repository's history."
    vouches = f" The digest is that of `{ENTRY}`, which holds those of weights and probe." if digest else ""
    return (
        f"From the Hub, pinned to a commit, whether or not the installed package lists the entry: "
        f'`zoo.load("hf://{weights.repository}@{weights.revision or "<commit>"}"{pinned})`.{which}{vouches} After '
        "`import keras_robust`, `keras.saving.load_model` reads the downloaded folder too."
    )


def _front_matter(entry: Entry) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=metric.data.dataset,
            dataset_name=metric.data.dataset,
            dataset_split=metric.data.split,
            metric_type="accuracy",
            # One name for each number: the Hub's format merges results that share type, name and arguments. What
            # differs between numbers is the metric's: of a data set it keeps the first number's arguments.
            metric_name=f"{metric.label} accuracy",
            metric_value=round(metric.value, 6),
            metric_args={
                "first_index": metric.data.first_index,
                "images": metric.images,
                "seed": metric.seed,
                "attack": metric.attack,
            },
        )
        for metric in entry.metrics
    ]
    data = ModelCardData(
        license=entry.licence.lower(),
        library_name="keras",
        pipeline_tag="image-classification",
        tags=["adversarial-robustness", "keras_robust", *entry.threat_models],
        datasets=[entry.dataset],
        metrics=["accuracy"],
        model_name=entry.name,
        eval_results=results,
    )
    return data.to_yaml().strip()


def _threats(entry: Entry) -> str:
    attacked = [metric for metric in entry.metrics if metric.kind in ("attack", "worst_case")]
    radii = sorted({(m.norm, m.epsilon) for m in attacked if m.norm and m.epsilon})
    if not radii:
        return ""
    norms = sorted({norm for norm, _ in radii})
    balls = "; ".join(
        f"{norm} with epsilon " + ", ".join(radius(epsilon) for each, epsilon in radii if each == norm)
        for norm in norms
    )
    return (
        "The attacker knows the model and its weights, and changes every pixel within a ball around the image and "
        f"within [0, 1], so as to have it misclassified: {balls}."
    )


def _numbers(metrics: list[Metric]) -> str:
    rows = [
        "| measured here | accuracy | 95 % interval | images | seed | code | backend |",
        "|---|---|---|---|---|---|---|",
    ]
    for metric in metrics:
        here = metric.environment
        rows.append(
            f"| {metric.label} | {metric.value:.2%} | {metric.low:.2%} to {metric.high:.2%} | {metric.images} "
            f"| {metric.seed} | {here.short_commit} | {here.backend} {here.backend_version} |"
        )
    flags = dict.fromkeys(flag for metric in metrics for flag in metric.flags)
    options = [f"- {metric.label}: {_options(metric)}" for metric in metrics if metric.attack]
    parts = ["\n".join(rows), "\n".join(options), "\n".join(f"- Warning: {flag}" for flag in flags)]
    return "\n\n".join(part for part in parts if part)


def _options(metric: Metric) -> str:
    attack = dict(metric.attack or {})
    if metric.kind == "worst_case":
        return "the worst of " + ", ".join(each["name"] for each in attack["attacks"]) + " on each image"
    attack.pop("name", None)
    return ", ".join(f"{name} {value}" for name, value in attack.items() if value is not None)


def _others(entry: Entry) -> list[str]:
    sections = []
    if entry.reported:
        rows = "\n".join(f"| {each.name} | {each.value:.2%} | {each.source} |" for each in entry.reported)
        sections.append("| reported by a paper, not measured here | accuracy | source |\n|---|---|---|\n" + rows)
    if entry.external:
        rows = "\n".join(
            f"| {each.name}, {each.norm} {radius(each.epsilon)} | {each.value:.2%} | {each.images} "
            f"| [{each.who}]({each.link}) |"
            for each in entry.external
        )
        sections.append("| measured by others | accuracy | images | who |\n|---|---|---|---|\n" + rows)
    return sections


def _facts(entry: Entry) -> str:
    kernels = entry.training.kernels
    rounded = "" if kernels in (None, "float32") else f", kernels rounded to {kernels}"
    arguments = ", ".join(f"{name}={value!r}" for name, value in entry.model.arguments.items())
    lines = [
        f"- Architecture: `{entry.model.builder}({arguments})`, {entry.parameters:,} trainable parameters, input "
        f"{' x '.join(map(str, entry.model.input_shape))}, {entry.model.num_classes} classes.",
        f"- Data: {entry.dataset}; images from elsewhere: {entry.extra_data or 'none'}.",
        f"- Training: {entry.training.epochs} epochs, seed {entry.training.seed}; `{entry.training.recipe}` "
        f"(digest {entry.training.recipe_digest[:12]}) holds every option.",
        f"- Weights: `{entry.weights.file}`, {entry.weights.bytes:,} bytes{rounded}, "
        f"SHA-256 `{entry.weights.sha256}`.",
        f"- Licence: {entry.licence}.",
        *[f"- Reference: {reference}" for reference in entry.references],
    ]
    return "\n".join(lines)
