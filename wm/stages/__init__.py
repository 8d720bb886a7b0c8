"""One file a stage of the loop: what one step means and what it leaves behind."""
