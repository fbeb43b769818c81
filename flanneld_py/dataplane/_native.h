#ifndef FLANNELD_NATIVE_H
#define FLANNELD_NATIVE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "_pump.h"

typedef struct {
	PyObject_HEAD
	struct pump_table table;
	uint8_t *image; /* what the table points into */
} TableObject;

typedef struct {
	PyTypeObject *table, *encap, *decap;
} ModuleState;

/* Return: borrowed, or NULL with TypeError. */
TableObject *native_table(const ModuleState *state, PyObject *object);

extern PyType_Spec native_table_spec;

/* The decisions of _pump.h as functions on bytes. */
extern PyMethodDef native_functions[];

#endif
