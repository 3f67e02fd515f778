"""When things run: recipes, plans, the Prefect flow, tracking, reports and the command line. Knows no tensor."""
