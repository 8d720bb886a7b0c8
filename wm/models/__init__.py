"""Networks: tensors in, tensors out. No data, loss, rank or engine."""
