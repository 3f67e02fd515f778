"""The material of Attar: artifacts, models, data, numerics and measures. Knows neither Prefect nor MLflow."""
