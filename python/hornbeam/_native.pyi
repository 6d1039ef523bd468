from torch import Tensor

# --- linear
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None: ...
