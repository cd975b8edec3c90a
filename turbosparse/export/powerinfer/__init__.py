"""Files for PowerInfer, and what its engine makes of them."""

from turbosparse.export.powerinfer.contract import check_quantization
from turbosparse.export.powerinfer.export import PowerInferOptions, export_powerinfer

__all__ = ["PowerInferOptions", "check_quantization", "export_powerinfer"]
