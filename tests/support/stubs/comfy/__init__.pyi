"""What of the host this pack uses; described after ComfyUI 0.8 to 0.33."""
