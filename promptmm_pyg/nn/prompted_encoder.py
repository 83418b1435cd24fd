"""A prompt for any encoder."""

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor

from promptmm_pyg._utils import check_non_negative, check_positive
from promptmm_pyg.nn.prompts import Prompt, PromptHolder


class TokenPrompt(Prompt):
    r"""The vector that is added to an input, from :math:`T` trained tokens.

    A static prompt is the mean of the tokens, one vector for all inputs. A conditioned
    prompt depends on the input,

    .. math::
        \mathbf{p}(\mathbf{x}) = \sum_{t=1}^{T} a_t(\mathbf{x}) \, \mathbf{q}_t, \qquad
        \mathbf{a}(\mathbf{x}) = \mathrm{softmax}(\mathbf{K} \mathbf{x} + \mathbf{c})

    after the two prompts of the `"Universal Prompt Tuning for Graph Neural Networks"
    <https://arxiv.org/abs/2209.15240>`_ paper. With one token the two are the same.

    Args:
        in_channels: The width :math:`F` of the input.
        num_tokens: The number of tokens :math:`T`. (default: ``4``)
        conditioned: Whether the prompt depends on the input. (default: ``False``)
        init: ``'random'``, or initial tokens :math:`(T, F)`, such as the axes of
            :func:`~promptmm_pyg.transforms.principal_axes`. (default: ``'random'``)

    Shapes:
        - **input:** features :math:`(*, F)`
        - **output:** prompts :math:`(*, F)`, or :math:`(F)` when static

    Raises:
        ValueError: If sizes or shapes do not fit.
    """

    init: Tensor | None

    def __init__(
        self,
        in_channels: int,
        num_tokens: int = 4,
        conditioned: bool = False,
        init: Literal['random'] | Tensor = 'random',
    ) -> None:
        super().__init__()
        check_positive('in_channels', in_channels)
        check_positive('num_tokens', num_tokens)
        self.in_channels = in_channels
        self.num_tokens = num_tokens
        self.conditioned = conditioned
        start = _check_init(init, (num_tokens, in_channels))
        self.register_buffer('init', start, persistent=False)
        self.tokens = torch.nn.Parameter(torch.empty(num_tokens, in_channels))
        self.gate = torch.nn.Linear(in_channels, num_tokens) if conditioned else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.init is None:
            torch.nn.init.xavier_uniform_(self.tokens)
        else:
            with torch.no_grad():
                self.tokens.copy_(self.init)
        if self.gate is not None:
            self.gate.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.tokens.mean(dim=0)
        out: Tensor = self.gate(x).softmax(dim=-1) @ self.tokens
        return out

    def describe(self) -> dict[str, Any]:
        return {
            'in_channels': self.in_channels,
            'num_tokens': self.num_tokens,
            'conditioned': self.conditioned,
        }

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.in_channels}, '
            f'num_tokens={self.num_tokens}, conditioned={self.conditioned})'
        )


class PromptedEncoder(PromptHolder[TokenPrompt]):
    r"""Encodes features after a prompt is added to them,
    :math:`f(\mathbf{X} + \lambda \, \mathbf{P})`, with any encoder :math:`f`. Prompts
    have names, and with :meth:`disable_prompt` the output is bit for bit that of the
    encoder.

    Args:
        encoder: Its first argument are features :math:`(*, F)`.
        in_channels: Their width :math:`F`.
        num_tokens: The number of tokens of the prompt. (default: ``4``)
        conditioned: Whether the prompt depends on the input (:class:`TokenPrompt`).
            (default: ``False``)
        weight: :math:`\lambda`. (default: ``1.0``)
        init: ``'random'``, or initial tokens :math:`(T, F)`. (default: ``'random'``)
        freeze_encoder: Whether the encoder is frozen: in eval mode, with parameters
            that do not require gradients. (default: ``False``)

    Shapes:
        - **input:** features :math:`(*, F)`, and further arguments of the encoder
        - **output:** the output of the encoder

    Raises:
        ValueError: If sizes or shapes do not fit.

    Example:
        >>> model = PromptedEncoder(torch.nn.Linear(8, 3), 8, freeze_encoder=True)
        >>> model(torch.randn(5, 8)).shape
        torch.Size([5, 3])
        >>> model.num_prompt_parameters  # Four tokens of eight channels.
        32
    """

    def __init__(
        self,
        encoder: torch.nn.Module,
        in_channels: int,
        num_tokens: int = 4,
        conditioned: bool = False,
        weight: float = 1.0,
        *,
        init: Literal['random'] | Tensor = 'random',
        freeze_encoder: bool = False,
    ) -> None:
        super().__init__()
        check_non_negative('weight', weight)
        prompt = TokenPrompt(in_channels, num_tokens, conditioned, init)
        self.in_channels = in_channels
        self.weight = weight
        self.freeze_encoder = freeze_encoder
        self.encoder = encoder
        self._hold_prompt(prompt)
        if freeze_encoder:
            encoder.requires_grad_(False)
            encoder.eval()

    def train(self, mode: bool = True) -> 'PromptedEncoder':
        """Like :meth:`torch.nn.Module.train`; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.dim() == 0 or x.size(-1) != self.in_channels:
            raise ValueError(
                f"'x' must have shape [*, {self.in_channels}] (got {list(x.shape)})"
            )
        prompt = self.active_prompt
        if prompt is not None:
            x = x + self.weight * prompt(x)
        return self.encoder(x, *args, **kwargs)

    def _new_prompt(self) -> TokenPrompt:
        prompt = cast(TokenPrompt, self.prompt)
        return TokenPrompt(self.in_channels, prompt.num_tokens, prompt.conditioned)

    def _check_prompt(self, prompt: TokenPrompt) -> None:
        width = getattr(prompt, 'in_channels', None)
        if not isinstance(prompt, TokenPrompt) or width != self.in_channels:
            raise ValueError(
                f"'prompt' must be a 'TokenPrompt' with in_channels="
                f"{self.in_channels} (got '{type(prompt).__name__}' with {width})"
            )

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.encoder.__class__.__name__}, '
            f'prompts={self.prompt_names}, in_use={self.prompt_name!r}, '
            f'weight={self.weight})'
        )


def _check_init(
    init: Literal['random'] | Tensor, size: tuple[int, int]
) -> Tensor | None:
    if isinstance(init, str) and init == 'random':
        return None
    if not isinstance(init, Tensor):
        raise ValueError(
            f"'init' must be 'random' or a tensor {list(size)} (got {init!r})"
        )
    finite = math.isfinite(float(init.abs().sum()))
    if tuple(init.shape) != size or not finite:
        raise ValueError(
            f"'init' must be 'random' or a finite tensor {list(size)}, one row per "
            f'token (got shape {list(init.shape)}, finite: {finite})'
        )
    return init.detach().clone()
