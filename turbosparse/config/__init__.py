"""Configuration: what a run computes (hashed) apart from where it runs (never hashed)."""

from turbosparse.config.base import Config
from turbosparse.config.data import TABLE_4_PERCENT, DataConfig
from turbosparse.config.hardware import TrainingPlacement, WandbConfig
from turbosparse.config.launch import JobSetConfig, SupervisionConfig, TolerationConfig
from turbosparse.config.model import Activation, ModelConfig
from turbosparse.config.pipeline import ConvertConfig, EvaluateConfig, ExportConfig, PipelineConfig
from turbosparse.config.placement import Placement
from turbosparse.config.predictors import PostHocConfig, PredictorConfig, ThresholdConfig
from turbosparse.config.resolve import PRESET_NAMES, PresetName, read_overrides, resolve, validate
from turbosparse.config.train import FinetuneConfig, TrainConfig

__all__ = [
    "PRESET_NAMES",
    "TABLE_4_PERCENT",
    "Activation",
    "Config",
    "ConvertConfig",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FinetuneConfig",
    "JobSetConfig",
    "ModelConfig",
    "PipelineConfig",
    "Placement",
    "PostHocConfig",
    "PredictorConfig",
    "PresetName",
    "SupervisionConfig",
    "ThresholdConfig",
    "TolerationConfig",
    "TrainConfig",
    "TrainingPlacement",
    "WandbConfig",
    "read_overrides",
    "resolve",
    "validate",
]
