"""The attention explorer: from a pixel to what the network looked at, and on to the class."""

from .widget import AttentionExplorer

__all__ = ["AttentionExplorer"]
