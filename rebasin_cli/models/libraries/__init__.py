"""Models of torchvision, timm and diffusers."""
