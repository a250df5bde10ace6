"""From scores to a plan: which modules a tuning takes. Pure formulas, and the baselines for them.

Every rule gets scores by module (high: important) and the sizes of the modules (trained values if
chosen), and gives the chosen ids. Ties go by the modules' order.
"""
