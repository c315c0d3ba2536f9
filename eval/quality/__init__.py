"""`medusa-apar eval quality`: how good answers are, measured without a judge and graded by one."""
