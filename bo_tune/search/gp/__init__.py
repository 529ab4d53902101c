"""The Gaussian process that stands for a study's times, and what it learns from other studies."""
