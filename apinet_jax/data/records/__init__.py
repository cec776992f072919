"""Preparation of encoded images as array_record files, and the layout of image folders."""
