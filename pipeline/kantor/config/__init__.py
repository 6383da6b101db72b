"""The configuration: one schema for the workflow, the command line and the documentation.

It holds physics, data, models and seeds. What belongs to a machine (paths, threads, memory, ranks) is not here: the
command line and the workflow's profiles say it, and none of it changes a result.
"""

from kantor.config.base import Settings
from kantor.config.datasets import (
    ArrayColumn,
    Dataset,
    DisPhysics,
    DisSource,
    FileSource,
    GridSource,
    MixturePhysics,
    Physics,
    RingSource,
    ShowerPhysics,
    Source,
    Split,
    SwissRollSource,
)
from kantor.config.networks import CriticNetwork, GeneratorNetwork, Network
from kantor.config.objectives import (
    Constrainer,
    Cramer,
    EnergyMatching,
    FeatureMatching,
    Gan,
    Kernels,
    LsGan,
    MmdMatching,
    MmdTerm,
    NsGan,
    Objective,
    Penalty,
    SnGan,
    Term,
    Wgan,
    WganGp,
)
from kantor.config.reading import load, parse, schema
from kantor.config.samples import GeneratedSample
from kantor.config.study import Config, Target, Validation
from kantor.config.trainings import Adam, AnyOptimiser, Decay, HeadStart, InstanceNoise, Optimiser, RmsProp, Training
from kantor.config.transforms import Dequantise, Log, LogDistance, QuantileNormal, Shower, Standardise, Transform

__all__ = [
    "Adam",
    "AnyOptimiser",
    "ArrayColumn",
    "Config",
    "Constrainer",
    "Cramer",
    "CriticNetwork",
    "Dataset",
    "Decay",
    "Dequantise",
    "DisPhysics",
    "DisSource",
    "EnergyMatching",
    "FeatureMatching",
    "FileSource",
    "Gan",
    "GeneratedSample",
    "GeneratorNetwork",
    "GridSource",
    "HeadStart",
    "InstanceNoise",
    "Kernels",
    "Log",
    "LogDistance",
    "LsGan",
    "MixturePhysics",
    "MmdMatching",
    "MmdTerm",
    "Network",
    "NsGan",
    "Objective",
    "Optimiser",
    "Penalty",
    "Physics",
    "QuantileNormal",
    "RingSource",
    "RmsProp",
    "Settings",
    "Shower",
    "ShowerPhysics",
    "SnGan",
    "Source",
    "Split",
    "Standardise",
    "SwissRollSource",
    "Target",
    "Term",
    "Training",
    "Transform",
    "Validation",
    "Wgan",
    "WganGp",
    "load",
    "parse",
    "schema",
]
