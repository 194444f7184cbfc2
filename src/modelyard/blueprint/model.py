"""The metamodel: what a blueprint may say, as typed, strict, immutable classes.

The concepts and properties follow the model-driven paper (Petrović, "Model-Driven Approach to Blockchain-Enabled
MLOps"), with its names in snake_case: Pipeline, Step, Layer, Cluster and Node; the rest is Modelyard's own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

__all__ = [
    "Blueprint",
    "Canary",
    "Cluster",
    "CommandStep",
    "DataSource",
    "Drift",
    "Environment",
    "EvaluatorStep",
    "Feedback",
    "ImporterStep",
    "Layer",
    "Limits",
    "Monitoring",
    "Node",
    "Objective",
    "Operation",
    "Pipeline",
    "PythonStep",
    "RetrainWhen",
    "Review",
    "SelectorStep",
    "Service",
    "Slo",
    "Split",
    "Step",
    "TrainerStep",
    "TransformStep",
    "TunerStep",
]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$", max_length=63)]
"""Lower-case letters, digits, `-` and `_`, first a letter: safe in a Git tag, a label, a file name and a URL."""

Seconds = Annotated[float, Field(gt=0)]
Metric = Literal["accuracy", "f1_macro", "log_loss", "mean_relative_error", "mae", "rmse", "r2"]
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid", "softmax", "log_softmax", "none"]


class Concept(BaseModel):
    """Base of every concept: unknown keys are errors, types are not coerced, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class Layer(Concept):
    """One layer of a neural network.

    The input size of a layer follows from the layer before it, the first one's from the data.
    """

    type: Literal[
        "fully_connected",
        "convolutional",
        "max_pooling",
        "average_pooling",
        "dropout",
        "batch_norm",
        "flatten",
        "recurrent",
    ]
    units: Annotated[int, Field(ge=1, description="Neurons, filters, or hidden size.")] | None = None
    activation: Activation = "none"
    kernel: Annotated[int, Field(ge=1, description="Side of the square kernel or window.")] | None = None
    stride: Annotated[int, Field(ge=1)] | None = None
    padding: Annotated[int, Field(ge=0)] = 0
    rate: Annotated[float, Field(ge=0, lt=1, description="Share of units that dropout switches off.")] | None = None
    cell: Literal["lstm", "gru", "rnn"] | None = None
    bidirectional: bool = False

    @model_validator(mode="after")
    def _complete(self) -> Layer:
        needs = {
            "fully_connected": ("units",), "convolutional": ("units", "kernel"), "max_pooling": ("kernel",),
            "average_pooling": ("kernel",), "dropout": ("rate",), "recurrent": ("units",),
        }.get(self.type, ())  # fmt: skip
        missing = [name for name in needs if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a layer of type {self.type} needs {' and '.join(missing)}")
        allowed = {"type", "activation", *needs}
        allowed |= {"stride", "padding"} if self.type in ("convolutional", "max_pooling", "average_pooling") else set()
        allowed |= {"cell", "bidirectional"} if self.type == "recurrent" else set()
        extra = sorted(self.model_fields_set - allowed)
        if extra:
            raise ValueError(f"a layer of type {self.type} has no {' or '.join(extra)}")
        return self


class Split(Concept):
    """How one source becomes a training and a test part that share no row."""

    test: Annotated[float, Field(gt=0, lt=1, description="Share of rows in the test part.")] = 0.2
    seed: Annotated[int, Field(ge=0)] = 0
    stratify: Annotated[bool, Field(description="Keep the share of each class in both parts.")] = True


class DataSource(Concept):
    """Where one part of the data lies: a path relative to the project, or a URL that fsspec opens.

    Args:
        data: One file, or a folder for `image_folder`.
        labels: For IDX: the file of labels.
        checksum: `sha256:<hex>` of the data file; a wrong one is an error, and a right one makes a URL cacheable.
        labels_checksum: The same of the labels file.
    """

    data: str
    labels: str | None = None
    checksum: Annotated[str, StringConstraints(pattern=r"^(sha256|blake3):[0-9a-f]{64}$")] | None = None
    labels_checksum: Annotated[str, StringConstraints(pattern=r"^(sha256|blake3):[0-9a-f]{64}$")] | None = None


class BaseStep(Concept):
    """What every kind of step has."""

    id: Name
    target_label: Annotated[str | None, Field(description="Label of the node the step should run on.")] = None
    estimated_time: Annotated[float | None, Field(ge=0, description="Seconds, for quotes and schedules.")] = None
    needs: Annotated[
        tuple[Name, ...] | None,
        Field(description="Steps that must succeed first. Left out: the step before it in the file."),
    ] = None
    inputs: Annotated[
        dict[Name, str], Field(description="Port to `step.output`. Left out: the nearest output of that name above.")
    ] = {}
    outputs: Annotated[tuple[Name, ...] | None, Field(description="Only for python and command steps.")] = None
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    retry_delay: Annotated[float, Field(ge=0, description="Seconds before the first retry; doubles each time.")] = 1.0
    timeout: Seconds | None = None
    cache: bool = True
    cores: Annotated[float | None, Field(gt=0)] = None
    memory: Annotated[str | None, StringConstraints(pattern=r"^[1-9][0-9]*(Mi|Gi)$")] = None


class ImporterStep(BaseStep):
    """Reads data from `local_data` or `online_data` into a training and a test part."""

    kind: Literal["importer"]
    format: Literal["idx", "npz", "csv", "parquet", "jsonl", "image_folder"]
    local_data: DataSource | str | None = None
    online_data: DataSource | str | None = None
    test_data: Annotated[DataSource | str | None, Field(description="A test part of its own, instead of a split.")] = (
        None
    )
    target: Annotated[str | None, Field(description="Column to predict. IDX and image folders call it `label`.")] = None
    columns: Annotated[tuple[str, ...] | None, Field(description="Columns to keep beside the target.")] = None
    dtypes: Annotated[dict[str, str], Field(description="Column to dtype, where the guess would be wrong.")] = {}
    split: Split | None = None
    image_size: Annotated[tuple[int, int] | None, Field(description="Rows, columns; for image folders.")] = None
    limit: Annotated[int | None, Field(ge=1, description="Keep only so many rows of each part.")] = None

    @model_validator(mode="after")
    def _one_source(self) -> ImporterStep:
        if (self.local_data is None) == (self.online_data is None):
            raise ValueError("an importer needs exactly one of local_data and online_data")
        if self.split is not None and self.test_data is not None:
            raise ValueError("an importer has either split or test_data, not both")
        return self


class Operation(Concept):
    """One operation of a transform, fitted on the training part alone.

    `scale` multiplies by `factor`; `standardize` subtracts the mean and divides by the deviation; `one_hot` turns
    categories into 0/1 columns of one array; `impute` fills what is missing; `flatten` and `reshape` change shapes;
    `stack` joins scalar columns, in order, into one array called `into`.
    """

    type: Literal["scale", "standardize", "one_hot", "impute", "flatten", "reshape", "stack"]
    columns: Annotated[tuple[str, ...] | None, Field(description="Left out: every column that the type fits.")] = None
    factor: float | None = None
    offset: float = 0.0
    strategy: Literal["mean", "median", "most_frequent", "constant"] | None = None
    value: float | str | None = None
    shape: tuple[int, ...] | None = None
    into: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Operation:
        needs = {"scale": "factor", "impute": "strategy", "reshape": "shape", "stack": "into"}.get(self.type)
        if needs is not None and getattr(self, needs) is None:
            raise ValueError(f"an operation of type {self.type} needs {needs}")
        return self


class TransformStep(BaseStep):
    """Changes columns; what it learns on the training part is packed with the model."""

    kind: Literal["transform"]
    operations: Annotated[tuple[Operation, ...], Field(min_length=1)]


class TrainerStep(BaseStep):
    """Trains a model: a PyTorch network from `layers`, or a scikit-learn estimator by name."""

    kind: Literal["trainer"]
    implementation: Annotated[
        Annotated[str, StringConstraints(pattern=r"^(torch|sklearn)$")], Field(description="torch or sklearn.")
    ] = "torch"
    layers: tuple[Layer, ...] = ()
    estimator: Annotated[str | None, Field(description="`sklearn.ensemble.RandomForestClassifier`.")] = None
    arguments: Annotated[dict[str, Any], Field(description="Of the estimator.")] = {}
    model_path: Annotated[str | None, Field(description="A saved model folder to continue from.")] = None
    epochs: Annotated[int, Field(ge=1)] = 10
    batch: Annotated[int, Field(ge=1)] = 64
    alpha: Annotated[float, Field(gt=0, description="Learning rate.")] = 0.001
    optimizer: Literal["adam", "adamw", "sgd", "adadelta", "rmsprop"] = "adam"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    loss: Literal["cross_entropy", "mse", "mae", "huber"] | None = None
    validation: Annotated[float, Field(ge=0, lt=1, description="Share of training rows held back.")] = 0.0
    patience: Annotated[int | None, Field(ge=1, description="Epochs without a better validation loss.")] = None
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")] = "auto"
    threads: Annotated[int | None, Field(ge=1, description="CPU threads; left out: the step's cores, else all.")] = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _complete(self) -> TrainerStep:
        if self.implementation == "sklearn":
            if self.estimator is None:
                raise ValueError("a trainer with implementation sklearn needs estimator")
            if self.layers or self.model_path:
                raise ValueError("a trainer with implementation sklearn has neither layers nor model_path")
        elif not self.layers and self.model_path is None:
            raise ValueError("a trainer needs layers or model_path")
        if self.patience is not None and self.validation == 0.0:
            raise ValueError("patience needs a validation share to watch")
        return self


class Objective(Concept):
    """What a tuner looks for."""

    metric: Metric
    direction: Literal["minimize", "maximize"]


class TunerStep(BaseStep):
    """Searches the parameters of a trainer."""

    kind: Literal["tuner"]
    trainer: Name
    space: Annotated[dict[str, Any], Field(min_length=1)]
    trials: Annotated[int, Field(ge=1)] = 20
    objective: Objective
    pruner: Literal["none", "median", "hyperband"] = "median"
    seed: Annotated[int, Field(ge=0)] = 0


class EvaluatorStep(BaseStep):
    """Measures a model on the test part, and fails the run where a minimum is not met."""

    kind: Literal["evaluator"]
    metric: Annotated[Metric | None, Field(description="Left out: accuracy, or mean_relative_error.")] = None
    metrics: Annotated[tuple[Metric, ...], Field(description="Further ones.")] = ()
    minimum: Annotated[dict[Metric, float], Field(description="For errors and losses it is the maximum.")] = {}


class SelectorStep(BaseStep):
    """Chooses the champion among candidates by a metric."""

    kind: Literal["selector"]
    metric: Metric
    direction: Literal["minimize", "maximize"] = "maximize"
    candidates: Annotated[tuple[Name, ...], Field(min_length=1)]


class PythonStep(BaseStep):
    """Calls any function; its parameters and outputs have the types of its hints."""

    kind: Literal["python"]
    function: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    parameters: dict[str, Any] = {}


class CommandStep(BaseStep):
    """Runs a shell line; inputs are folders named by `$INPUT_<PORT>`, outputs are folders `$OUTPUT_<NAME>`."""

    kind: Literal["command"]
    run: str
    image: Annotated[str | None, Field(description="Container image, where the executor runs containers.")] = None
    parameters: dict[str, str | int | float | bool] = {}
    files: Annotated[tuple[str, ...], Field(description="Project files that the line reads.")] = ()


Step = Annotated[
    ImporterStep | TransformStep | TrainerStep | TunerStep | EvaluatorStep | SelectorStep | PythonStep | CommandStep,
    Field(discriminator="kind"),
]


class Pipeline(Concept):
    """A named list of steps and what they predict."""

    name: Name
    prediction_type: Literal["classification", "regression"] = "classification"
    repeat_time: Annotated[str | None, Field(description="ISO 8601 duration or cron line.")] = None
    customer_id: str | None = None
    description: str = ""
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]


class Node(Concept):
    """A machine of the cluster, and its price."""

    label: Name
    location: str = ""
    ip: str | None = None
    accelerator: str | None = None
    unit_price: Annotated[float, Field(ge=0, description="Tokens for one second.")] = 0.0
    provider_id: str | None = None
    cores: Annotated[int, Field(ge=1)] = 1
    memory: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*(Mi|Gi)$")] = "1Gi"


class Cluster(Concept):
    """The machines that steps may run on."""

    nodes: Annotated[tuple[Node, ...], Field(min_length=1)]


class Environment(Concept):
    """A place to release to; environments are passed in the order given."""

    name: Name
    namespace: str | None = None
    replicas: Annotated[int, Field(ge=0)] = 1
    deployment: Literal["hot_swap", "image"] = "hot_swap"


class Review(Concept):
    """What must be true before a version may be released."""

    approvals: Annotated[int, Field(ge=0, description="By different managers, none of them the submitter.")] = 1
    require: Annotated[dict[Metric, float], Field(description="Metric gates; for errors the value is a maximum.")] = {}
    roles: Annotated[tuple[str, ...], Field(min_length=1)] = ("manager",)


class Slo(Concept):
    """What a service promises."""

    p99_ms: Annotated[float | None, Field(gt=0)] = None
    error_rate: Annotated[float | None, Field(ge=0, le=1)] = None


class Canary(Concept):
    """A share of traffic for a new version before it takes all."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    hold: Seconds = 60.0


class Limits(Concept):
    """What one request may ask for."""

    body_bytes: Annotated[int, Field(ge=1)] = 16 * 1024 * 1024
    rows: Annotated[int, Field(ge=1)] = 100_000
    in_flight: Annotated[int, Field(ge=1)] = 256


class Service(Concept):
    """How the released version is served."""

    name: Name | None = None
    slo: Slo = Slo()
    canary: Canary = Canary()
    limits: Limits = Limits()


class Drift(Concept):
    """When the data counts as changed."""

    test: Literal["ks", "psi", "chi2"] = "ks"
    threshold: Annotated[float, Field(gt=0)] = 0.05
    window: Annotated[int, Field(ge=1)] = 1000


class Feedback(Concept):
    """How corrected predictions come back."""

    column: str
    minimum: Annotated[int, Field(ge=1)] = 100


class RetrainWhen(Concept):
    """What starts the next training."""

    drift: bool = False
    feedback: Annotated[int | None, Field(ge=1)] = None
    schedule: str | None = None


class Monitoring(Concept):
    """What is watched while a service runs."""

    log_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    drift: Drift | None = None
    feedback: Feedback | None = None
    retrain_when: RetrainWhen = RetrainWhen()


class Blueprint(Concept):
    """One machine-learning system, described once."""

    version: Literal[1] = 1
    model: Annotated[Name | None, Field(description="Name in the Model Center. Left out: the pipeline's.")] = None
    pipeline: Pipeline
    cluster: Cluster | None = None
    environments: tuple[Environment, ...] = (
        Environment(name="dev"), Environment(name="staging"), Environment(name="production"),
    )  # fmt: skip
    review: Review = Review()
    service: Service = Service()
    monitoring: Monitoring = Monitoring()

    @property
    def model_name(self) -> str:
        """The name under which its packages are submitted."""
        return self.model or self.pipeline.name
