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


Checksum = Annotated[str, StringConstraints(pattern=r"^(sha256|blake3):[0-9a-f]{64}$")]
Memory = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*(Mi|Gi)$")]


class Concept(BaseModel):
    """Base of every concept: unknown keys are errors, types are not coerced, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class Layer(Concept):
    """One layer of a neural network.

    The input size of a layer follows from the layer before it, the first one's from the data. Which keys a layer has
    follows from its type: `fully_connected` units; `convolutional` units, kernel, stride, padding; `max_pooling` and
    `average_pooling` kernel, stride, padding; `dropout` rate; `recurrent` units, cell, bidirectional.
    """

    type: Annotated[
        Literal[
            "fully_connected",
            "convolutional",
            "max_pooling",
            "average_pooling",
            "dropout",
            "batch_norm",
            "flatten",
            "recurrent",
        ],
        Field(description="What the layer does."),
    ]
    units: Annotated[int | None, Field(ge=1, description="Neurons, filters, or hidden size.")] = None
    activation: Annotated[Activation, Field(description="Function applied to the layer's result.")] = "none"
    kernel: Annotated[int | None, Field(ge=1, description="Side of the square kernel or window.")] = None
    stride: Annotated[
        int | None, Field(ge=1, description="Step of the kernel. Left out: 1 for convolutions, the kernel for pooling.")
    ] = None
    padding: Annotated[int, Field(ge=0, description="Zeros added at each side.")] = 0
    rate: Annotated[float | None, Field(ge=0, lt=1, description="Share of units that dropout switches off.")] = None
    cell: Annotated[Literal["lstm", "gru", "rnn"] | None, Field(description="Recurrent cell. Left out: lstm.")] = None
    bidirectional: Annotated[bool, Field(description="Read the sequence from both ends.")] = False

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
        fields = type(self).model_fields
        # A value that equals its default says nothing, so a blueprint that was written out whole can be read again.
        stated = {name for name in self.model_fields_set if getattr(self, name) != fields[name].default}
        extra = sorted(stated - allowed)
        if extra:
            raise ValueError(f"a layer of type {self.type} has no {' or '.join(extra)}")
        return self


class Split(Concept):
    """How one source becomes a training and a test part that share no row."""

    test: Annotated[float, Field(gt=0, lt=1, description="Share of rows in the test part.")] = 0.2
    seed: Annotated[int, Field(ge=0, description="Of the random choice of rows.")] = 0
    stratify: Annotated[bool, Field(description="Keep the share of each class in both parts.")] = True


class DataSource(Concept):
    """Where one part of the data lies: a path relative to the project, or a URL that fsspec opens."""

    data: Annotated[str, Field(description="One file, or a folder for `image_folder`.")]
    labels: Annotated[str | None, Field(description="For IDX: the file of labels.")] = None
    checksum: Annotated[
        Checksum | None,
        Field(description="Of the data file; a wrong one is an error, and a right one makes a URL cacheable."),
    ] = None
    labels_checksum: Annotated[Checksum | None, Field(description="Of the labels file.")] = None


class BaseStep(Concept):
    """What every kind of step has."""

    id: Annotated[Name, Field(description="Name of the step, unlike any other step's.")]
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
    retries: Annotated[int, Field(ge=0, le=100, description="How often a failed attempt is repeated.")] = 0
    retry_delay: Annotated[float, Field(ge=0, description="Seconds before the first retry; doubles each time.")] = 1.0
    timeout: Annotated[Seconds | None, Field(description="Seconds for one attempt; then it is stopped.")] = None
    cache: Annotated[bool, Field(description="Take the result of an equal step that has run before.")] = True
    cores: Annotated[float | None, Field(gt=0, description="CPU cores it takes.")] = None
    memory: Annotated[Memory | None, Field(description="Memory it takes, such as 512Mi or 2Gi.")] = None


class ImporterStep(BaseStep):
    """Reads data from `local_data` or `online_data` into a training and a test part."""

    kind: Annotated[Literal["importer"], Field(description="What the step does.")]
    format: Annotated[
        Literal["idx", "npz", "csv", "parquet", "jsonl", "image_folder"], Field(description="How the files are read.")
    ]
    local_data: Annotated[
        DataSource | str | None, Field(description="Files of the project. Exactly one of local_data and online_data.")
    ] = None
    online_data: Annotated[DataSource | str | None, Field(description="A URL that fsspec opens, such as https://.")] = (
        None
    )
    test_data: Annotated[DataSource | str | None, Field(description="A test part of its own, instead of a split.")] = (
        None
    )
    target: Annotated[str | None, Field(description="Column to predict. IDX and image folders call it `label`.")] = None
    columns: Annotated[tuple[str, ...] | None, Field(description="Columns to keep beside the target.")] = None
    dtypes: Annotated[dict[str, str], Field(description="Column to dtype, where the guess would be wrong.")] = {}
    split: Annotated[Split | None, Field(description="How rows are shared out. Left out: Split's defaults.")] = None
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

    type: Annotated[
        Literal["scale", "standardize", "one_hot", "impute", "flatten", "reshape", "stack"],
        Field(description="What the operation does."),
    ]
    columns: Annotated[tuple[str, ...] | None, Field(description="Left out: every column that the type fits.")] = None
    factor: Annotated[float | None, Field(description="For scale: every value is multiplied by it.")] = None
    offset: Annotated[float, Field(description="For scale: added after the multiplication.")] = 0.0
    strategy: Annotated[
        Literal["mean", "median", "most_frequent", "constant"] | None,
        Field(description="For impute: what a missing value becomes."),
    ] = None
    value: Annotated[float | str | None, Field(description="For impute with the strategy constant.")] = None
    shape: Annotated[tuple[int, ...] | None, Field(description="For reshape: of one row.")] = None
    into: Annotated[str | None, Field(description="For stack: name of the new column.")] = None

    @model_validator(mode="after")
    def _complete(self) -> Operation:
        needs = {"scale": "factor", "impute": "strategy", "reshape": "shape", "stack": "into"}.get(self.type)
        if needs is not None and getattr(self, needs) is None:
            raise ValueError(f"an operation of type {self.type} needs {needs}")
        return self


class TransformStep(BaseStep):
    """Changes columns; what it learns on the training part is packed with the model."""

    kind: Annotated[Literal["transform"], Field(description="What the step does.")]
    operations: Annotated[tuple[Operation, ...], Field(min_length=1, description="Applied one after the other.")]


class TrainerStep(BaseStep):
    """Trains a model: a PyTorch network from `layers`, or a scikit-learn estimator by name."""

    kind: Annotated[Literal["trainer"], Field(description="What the step does.")]
    implementation: Annotated[
        Annotated[str, StringConstraints(pattern=r"^(torch|sklearn)$")], Field(description="torch or sklearn.")
    ] = "torch"
    layers: Annotated[tuple[Layer, ...], Field(description="For torch: the network, first layer first.")] = ()
    estimator: Annotated[str | None, Field(description="`sklearn.ensemble.RandomForestClassifier`.")] = None
    arguments: Annotated[dict[str, Any], Field(description="Of the estimator.")] = {}
    format: Annotated[
        Literal["skops", "pickle"],
        Field(description="For sklearn: how the estimator is kept. A pickle is refused unless signed and allowed."),
    ] = "skops"
    model_path: Annotated[str | None, Field(description="A saved model folder to continue from.")] = None
    epochs: Annotated[int, Field(ge=1, description="How often all training rows are seen.")] = 10
    batch: Annotated[int, Field(ge=1, description="Rows for one update of the weights.")] = 64
    alpha: Annotated[float, Field(gt=0, description="Learning rate.")] = 0.001
    optimizer: Annotated[
        Literal["adam", "adamw", "sgd", "adadelta", "rmsprop"], Field(description="How weights are updated.")
    ] = "adam"
    weight_decay: Annotated[float, Field(ge=0, description="Strength of the pull of weights towards zero.")] = 0.0
    loss: Annotated[
        Literal["cross_entropy", "mse", "mae", "huber"] | None,
        Field(description="What training makes small. Left out: cross_entropy for classification, else mse."),
    ] = None
    validation: Annotated[float, Field(ge=0, lt=1, description="Share of training rows held back.")] = 0.0
    patience: Annotated[int | None, Field(ge=1, description="Epochs without a better validation loss.")] = None
    device: Annotated[
        Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")],
        Field(description="auto takes a GPU where there is one."),
    ] = "auto"
    threads: Annotated[int | None, Field(ge=1, description="CPU threads; left out: the step's cores, else all.")] = None
    seed: Annotated[int, Field(ge=0, description="The same seed, data, code and versions give the same model.")] = 0

    @model_validator(mode="after")
    def _complete(self) -> TrainerStep:
        if self.implementation == "sklearn":
            if self.estimator is None:
                raise ValueError("a trainer with implementation sklearn needs estimator")
            if self.layers or self.model_path:
                raise ValueError("a trainer with implementation sklearn has neither layers nor model_path")
        elif not self.layers and self.model_path is None:
            raise ValueError("a trainer needs layers or model_path")
        elif self.format != "skops":
            raise ValueError("a trainer with implementation torch keeps its weights as safetensors, and has no format")
        if self.patience is not None and self.validation == 0.0:
            raise ValueError("patience needs a validation share to watch")
        return self


class Objective(Concept):
    """What a tuner looks for."""

    metric: Annotated[Metric, Field(description="What is compared.")]
    direction: Annotated[Literal["minimize", "maximize"], Field(description="Which way is better.")]


class TunerStep(BaseStep):
    """Searches the parameters of a trainer."""

    kind: Annotated[Literal["tuner"], Field(description="What the step does.")]
    trainer: Annotated[Name, Field(description="Id of the trainer step whose parameters are searched.")]
    space: Annotated[dict[str, Any], Field(min_length=1, description="Parameter to the values it may take.")]
    trials: Annotated[int, Field(ge=1, description="How many combinations are tried.")] = 20
    objective: Annotated[Objective, Field(description="What makes one trial better than another.")]
    pruner: Annotated[
        Literal["none", "median", "hyperband"], Field(description="Which trials are stopped before their end.")
    ] = "median"
    seed: Annotated[int, Field(ge=0, description="The same seed, data, code and versions give the same model.")] = 0


class EvaluatorStep(BaseStep):
    """Measures a model on the test part, and fails the run where a minimum is not met."""

    kind: Annotated[Literal["evaluator"], Field(description="What the step does.")]
    metric: Annotated[Metric | None, Field(description="Left out: accuracy, or mean_relative_error.")] = None
    metrics: Annotated[tuple[Metric, ...], Field(description="Further ones.")] = ()
    minimum: Annotated[dict[Metric, float], Field(description="For errors and losses it is the maximum.")] = {}
    allow_pickle: Annotated[
        Literal["own"] | None, Field(description="own: a pickled model of this run may be loaded. Left out: none.")
    ] = None


class SelectorStep(BaseStep):
    """Chooses the champion among candidates by a metric."""

    kind: Annotated[Literal["selector"], Field(description="What the step does.")]
    metric: Annotated[Metric, Field(description="What is compared.")]
    direction: Annotated[Literal["minimize", "maximize"], Field(description="Which way is better.")] = "maximize"
    candidates: Annotated[tuple[Name, ...], Field(min_length=1, description="Ids of the evaluators to compare.")]


class PythonStep(BaseStep):
    """Calls any function; its parameters and outputs have the types of its hints."""

    kind: Annotated[Literal["python"], Field(description="What the step does.")]
    function: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")],
        Field(description="`module:function`, looked up from the project folder."),
    ]
    parameters: Annotated[dict[str, Any], Field(description="Arguments of the function, by name.")] = {}


class CommandStep(BaseStep):
    """Runs a shell line; inputs are folders named by `$INPUT_<PORT>`, outputs are folders `$OUTPUT_<NAME>`."""

    kind: Annotated[Literal["command"], Field(description="What the step does.")]
    run: Annotated[str, Field(description="The line, as `sh -c` takes it.")]
    image: Annotated[str | None, Field(description="Container image, where the executor runs containers.")] = None
    parameters: Annotated[dict[str, str | int | float | bool], Field(description="Become `$PARAMETER_<NAME>`.")] = {}
    files: Annotated[tuple[str, ...], Field(description="Project files that the line reads.")] = ()


Step = Annotated[
    ImporterStep | TransformStep | TrainerStep | TunerStep | EvaluatorStep | SelectorStep | PythonStep | CommandStep,
    Field(discriminator="kind"),
]


class Pipeline(Concept):
    """A named list of steps and what they predict."""

    name: Annotated[Name, Field(description="Name of the pipeline; runs are listed under it.")]
    prediction_type: Annotated[
        Literal["classification", "regression"], Field(description="Whether a class or a number is predicted.")
    ] = "classification"
    repeat_time: Annotated[str | None, Field(description="ISO 8601 duration or cron line.")] = None
    customer_id: Annotated[str | None, Field(description="Who pays for its runs.")] = None
    description: Annotated[str, Field(description="For people.")] = ""
    steps: Annotated[tuple[Step, ...], Field(min_length=1, description="What is done, in order.")]


class Node(Concept):
    """A machine of the cluster, and its price."""

    label: Annotated[Name, Field(description="What `target_label` of a step names.")]
    location: Annotated[str, Field(description="Where it stands.")] = ""
    ip: Annotated[str | None, Field(description="Its address.")] = None
    accelerator: Annotated[str | None, Field(description="Such as nvidia-h100.")] = None
    unit_price: Annotated[float, Field(ge=0, description="Tokens for one second.")] = 0.0
    provider_id: Annotated[str | None, Field(description="Who is paid for it.")] = None
    cores: Annotated[int, Field(ge=1, description="CPU cores.")] = 1
    memory: Annotated[Memory, Field(description="Such as 512Mi or 2Gi.")] = "1Gi"


class Cluster(Concept):
    """The machines that steps may run on."""

    nodes: Annotated[tuple[Node, ...], Field(min_length=1, description="The machines.")]


class Environment(Concept):
    """A place to release to; environments are passed in the order given."""

    name: Annotated[Name, Field(description="Unlike any other environment's.")]
    namespace: Annotated[str | None, Field(description="Kubernetes namespace. Left out: the name.")] = None
    replicas: Annotated[int, Field(ge=0, description="Runners side by side.")] = 1
    deployment: Annotated[
        Literal["hot_swap", "image"],
        Field(description="hot_swap: a running service takes the version; image: a container image is built for it."),
    ] = "hot_swap"


class Review(Concept):
    """What must be true before a version may be released."""

    approvals: Annotated[int, Field(ge=0, description="By different managers, none of them the submitter.")] = 1
    require: Annotated[dict[Metric, float], Field(description="Metric gates; for errors the value is a maximum.")] = {}
    roles: Annotated[tuple[str, ...], Field(min_length=1, description="Whose approvals count.")] = ("manager",)


class Slo(Concept):
    """What a service promises."""

    p99_ms: Annotated[
        float | None, Field(gt=0, description="Milliseconds within which 99 of 100 requests are answered.")
    ] = None
    error_rate: Annotated[float | None, Field(ge=0, le=1, description="Share of requests that may fail.")] = None


class Canary(Concept):
    """A share of traffic for a new version before it takes all."""

    share: Annotated[float, Field(ge=0, le=1, description="Of requests; 0 gives the new version all at once.")] = 0.0
    hold: Annotated[Seconds, Field(description="Seconds before it takes all.")] = 60.0
    minimum: Annotated[int, Field(ge=1, description="Requests before it is judged by what the service promises.")] = 50


class Sandbox(Concept):
    """What a process may take that opens a model which a client uploaded."""

    memory: Annotated[int, Field(ge=1, description="Bytes of private memory.")] = 2 * 1024**3
    cpu_seconds: Annotated[int, Field(ge=1, description="Seconds of processor time, from its start to its end.")] = 120
    seconds: Annotated[Seconds, Field(description="Seconds for one answer.")] = 60.0
    file_bytes: Annotated[int, Field(ge=1, description="Bytes of the largest file that it may write.")] = 2 * 1024**3
    processes: Annotated[
        int, Field(ge=1, description="For each worker, that serve requests which bring their own model.")
    ] = 2
    idle_seconds: Annotated[
        float, Field(ge=0, description="Seconds for which one waits for the next request with the same model.")
    ] = 30.0


class Limits(Concept):
    """What one request may ask for."""

    body_bytes: Annotated[int, Field(ge=1, description="Bytes of a request's body, and of what it unpacks to.")] = (
        16 * 1024 * 1024
    )
    rows: Annotated[int, Field(ge=1, description="Rows of one request.")] = 100_000
    in_flight: Annotated[int, Field(ge=1, description="Requests that are answered side by side.")] = 256
    body_seconds: Annotated[Seconds, Field(description="Seconds in which a body must arrive.")] = 30.0
    decompression_ratio: Annotated[
        int, Field(ge=1, description="Times its length that a body may unpack to, above 1 MiB (a table: 8 MiB).")
    ] = 200
    unpacked_bytes: Annotated[int, Field(ge=1, description="Bytes that a table in Arrow or Parquet may unpack to.")] = (
        256 * 1024 * 1024
    )
    upload_bytes: Annotated[int, Field(ge=1, description="Bytes of a model that a client uploads.")] = 512 * 1024 * 1024
    uploads: Annotated[int, Field(ge=1, description="Uploads of models that one worker takes side by side.")] = 8
    staged_seconds: Annotated[Seconds, Field(description="Seconds that an uploaded part waits for the others.")] = (
        86_400.0
    )
    sandbox: Annotated[Sandbox, Field(description="What an uploaded model may take.")] = Sandbox()


class Service(Concept):
    """How the released version is served."""

    name: Annotated[Name | None, Field(description="Left out: the model's.")] = None
    slo: Annotated[Slo, Field(description="What it promises.")] = Slo()
    canary: Annotated[Canary, Field(description="How a new version takes over.")] = Canary()
    limits: Annotated[Limits, Field(description="What a request may ask for.")] = Limits()
    grace: Annotated[
        float, Field(ge=0, description="Seconds for which requests that fit only a replaced contract are answered.")
    ] = 30.0


class Drift(Concept):
    """When the data counts as changed."""

    test: Annotated[Literal["ks", "psi", "chi2"], Field(description="Statistical test.")] = "ks"
    threshold: Annotated[float, Field(gt=0, description="Of the test's p-value, or of the index for psi.")] = 0.05
    window: Annotated[int, Field(ge=1, description="Rows that are compared with the training data.")] = 1000


class Feedback(Concept):
    """How corrected predictions come back."""

    column: Annotated[str, Field(description="Holds the right answer.")]
    minimum: Annotated[int, Field(ge=1, description="Rows before they are used.")] = 100


class RetrainWhen(Concept):
    """What starts the next training."""

    drift: Annotated[bool, Field(description="Whether drift does.")] = False
    feedback: Annotated[int | None, Field(ge=1, description="So many rows of feedback.")] = None
    schedule: Annotated[str | None, Field(description="ISO 8601 duration or cron line.")] = None


class Monitoring(Concept):
    """What is watched while a service runs."""

    log_rate: Annotated[float, Field(ge=0, le=1, description="Share of predictions that are logged.")] = 0.0
    drift: Annotated[Drift | None, Field(description="Left out: not watched.")] = None
    feedback: Annotated[Feedback | None, Field(description="Left out: not collected.")] = None
    retrain_when: Annotated[RetrainWhen, Field(description="What starts the next training.")] = RetrainWhen()


class Blueprint(Concept):
    """One machine-learning system, described once."""

    version: Annotated[Literal[1], Field(description="Of the blueprint's language.")] = 1
    model: Annotated[Name | None, Field(description="Name in the Model Center. Left out: the pipeline's.")] = None
    pipeline: Annotated[Pipeline, Field(description="What is trained, and how.")]
    cluster: Annotated[Cluster | None, Field(description="Where steps run. Left out: on this machine.")] = None
    environments: Annotated[tuple[Environment, ...], Field(description="Where versions are released, in order.")] = (
        Environment(name="dev"), Environment(name="staging"), Environment(name="production"),
    )  # fmt: skip
    review: Annotated[Review, Field(description="What a version needs before it may be released.")] = Review()
    service: Annotated[Service, Field(description="How it is served.")] = Service()
    monitoring: Annotated[Monitoring, Field(description="What is watched.")] = Monitoring()

    @property
    def model_name(self) -> str:
        """The name under which its packages are submitted."""
        return self.model or self.pipeline.name
