"""Tuners that treat layers unlike one another: LISA, SPIDER, PRILoRA, behind one small seam."""
