"""See the package."""

LoRARequest = None
