"""Configuration: what a run computes (hashed) apart from where it runs (never hashed)."""

from turbosparse.config.access import AccessConfig
from turbosparse.config.base import Config
from turbosparse.config.data import TABLE_4_PERCENT, DataConfig
from turbosparse.config.evaluation import EvaluateConfig
from turbosparse.config.hardware import TaskEvaluationConfig, TrainingPlacement, WandbConfig
from turbosparse.config.launch import JobSetConfig, SupervisionConfig, TolerationConfig
from turbosparse.config.model import Activation, ModelConfig
from turbosparse.config.overrides import Overrides
from turbosparse.config.pipeline import ConvertConfig, ExportConfig, PipelineConfig
from turbosparse.config.placement import Placement
from turbosparse.config.predictors import PostHocConfig, PredictorConfig, ThresholdConfig
from turbosparse.config.resolve import PRESET_NAMES, PresetName, read_overrides, resolve, validate
from turbosparse.config.retrain import GateConfig, RetrainConfig
from turbosparse.config.train import FinetuneConfig, TrainConfig

__all__ = [
    "PRESET_NAMES",
    "TABLE_4_PERCENT",
    "AccessConfig",
    "Activation",
    "Config",
    "ConvertConfig",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FinetuneConfig",
    "GateConfig",
    "JobSetConfig",
    "ModelConfig",
    "Overrides",
    "PipelineConfig",
    "Placement",
    "PostHocConfig",
    "PredictorConfig",
    "PresetName",
    "RetrainConfig",
    "SupervisionConfig",
    "TaskEvaluationConfig",
    "ThresholdConfig",
    "TolerationConfig",
    "TrainConfig",
    "TrainingPlacement",
    "WandbConfig",
    "read_overrides",
    "resolve",
    "validate",
]
