"""Log-mel front-ends: `tables` (spec -> numbers), `reference` (float64, the law), `stream` (numpy)."""
