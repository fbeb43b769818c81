/* The Python side of the native data path: objects around the table and the two pumps.
 *
 * A run releases the GIL; the table that it uses is held by a reference of its own, so another one may be set
 * meanwhile.
 */
#include "_native.h"

#include <errno.h>

#include "_batchio.h"

TableObject *native_table(const ModuleState *state, PyObject *object)
{
	if (PyObject_TypeCheck(object, state->table))
		return (TableObject *)object;
	PyErr_SetString(PyExc_TypeError, "not a table of the native pump");
	return NULL;
}

/* ---- pumps ------------------------------------------------------------------------------------------------------ */

typedef struct {
	PyObject_HEAD
	PyObject *table;
	struct io_encap *encap; /* one of the two */
	struct io_decap *decap;
	struct io_counters counters; /* as of the end of the last run */
	bool running;
} PumpObject;

static PyObject *pump_alloc(PyTypeObject *type, PyObject *table)
{
	ModuleState *state = PyType_GetModuleState(type);
	if (state == NULL || native_table(state, table) == NULL)
		return NULL;
	PumpObject *self = (PumpObject *)PyType_GenericAlloc(type, 0);
	if (self != NULL)
		self->table = Py_NewRef(table);
	return (PyObject *)self;
}

static PyObject *pump_checked(PumpObject *self)
{
	if (self->encap != NULL || self->decap != NULL)
		return (PyObject *)self;
	Py_DECREF(self);
	return PyErr_NoMemory();
}

static PyObject *encap_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"table", "gso", NULL};
	PyObject *table;
	int gso = 1;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$p:Encap", names, &table, &gso))
		return NULL;
	PumpObject *self = (PumpObject *)pump_alloc(type, table);
	if (self == NULL)
		return NULL;
	self->encap = io_encap_new(gso != 0);
	return pump_checked(self);
}

static PyObject *decap_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"table", "tcp", "udp", NULL};
	PyObject *table;
	int tcp = 1, udp = 1;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$pp:Decap", names, &table, &tcp, &udp))
		return NULL;
	PumpObject *self = (PumpObject *)pump_alloc(type, table);
	if (self == NULL)
		return NULL;
	self->decap = io_decap_new(tcp != 0, udp != 0);
	return pump_checked(self);
}

static void pump_dealloc(PyObject *object)
{
	PumpObject *self = (PumpObject *)object;
	PyTypeObject *type = Py_TYPE(object);
	io_encap_free(self->encap);
	io_decap_free(self->decap);
	Py_XDECREF(self->table);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
	Py_DECREF(type);
}

/* Return: a reference to the table that the pump is to use now, or NULL with an exception if it is running. */
static PyObject *pump_begin(PumpObject *self)
{
	if (self->running) {
		PyErr_SetString(PyExc_RuntimeError, "the pump is already running in another thread");
		return NULL;
	}
	self->running = true;
	return Py_NewRef(self->table);
}

static void pump_end(PumpObject *self, PyObject *held)
{
	self->running = false;
	self->counters = self->encap != NULL ? *io_encap_counters(self->encap) : *io_decap_counters(self->decap);
	Py_DECREF(held);
}

static PyObject *pump_run(PyObject *object, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"tun_fd", "sock_fd", "batches", NULL};
	PumpObject *self = (PumpObject *)object;
	int tun, sock;
	unsigned batches = 8;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ii|I:run", names, &tun, &sock, &batches))
		return NULL;
	PyObject *held = pump_begin(self);
	if (held == NULL)
		return NULL;
	const struct pump_table *table = &((TableObject *)held)->table;
	enum io_status status;
	Py_BEGIN_ALLOW_THREADS
	if (self->encap != NULL)
		status = io_encap_run(self->encap, table, tun, sock, batches);
	else
		status = io_decap_run(self->decap, table, tun, sock, batches);
	Py_END_ALLOW_THREADS
	pump_end(self, held);
	if (status != IO_FAILED)
		return PyLong_FromLong(status);
	errno = self->encap != NULL ? io_encap_failed(self->encap) : io_decap_failed(self->decap);
	return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *encap_serve(PyObject *object, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"decap", "tun_fd", "sock_fd", "wake_fd", NULL};
	ModuleState *state = PyType_GetModuleState(Py_TYPE(object));
	PumpObject *self = (PumpObject *)object, *other;
	int tun, sock, wake;
	if (state == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!iii:serve", names, state->decap, &other, &tun,
	                                                  &sock, &wake))
		return NULL;
	PyObject *outward = pump_begin(self);
	PyObject *inward = outward == NULL ? NULL : pump_begin(other);
	if (inward == NULL && outward != NULL)
		pump_end(self, outward);
	if (inward == NULL)
		return NULL;
	const struct pump_table *out = &((TableObject *)outward)->table, *in = &((TableObject *)inward)->table;
	int failed;
	Py_BEGIN_ALLOW_THREADS
	failed = io_serve(self->encap, out, other->decap, in, tun, sock, wake);
	Py_END_ALLOW_THREADS
	pump_end(self, outward);
	pump_end(other, inward);
	if (failed == 0)
		Py_RETURN_NONE;
	errno = failed;
	return PyErr_SetFromErrno(PyExc_OSError);
}

static int add_count(PyObject *dict, const char *name, uint64_t value)
{
	PyObject *number = PyLong_FromUnsignedLongLong(value);
	const int failed = number == NULL ? -1 : PyDict_SetItemString(dict, name, number);
	Py_XDECREF(number);
	return failed;
}

static PyObject *drops_tuple(const struct io_counters *counters)
{
	PyObject *drops = PyTuple_New(PUMP_DROPS);
	for (Py_ssize_t i = 0; drops != NULL && i < PUMP_DROPS; i++) {
		PyObject *number = PyLong_FromUnsignedLongLong(counters->drops[i]);
		if (number == NULL || PyTuple_SetItem(drops, i, number) < 0)
			Py_CLEAR(drops);
	}
	return drops;
}

static PyObject *pump_counters(PyObject *object, PyObject *Py_UNUSED(ignored))
{
	const struct io_counters *counters = &((PumpObject *)object)->counters;
	const struct {
		const char *name;
		uint64_t value;
	} fields[] = {
		{"packets", counters->packets},
		{"bytes", counters->bytes},
		{"trains", counters->trains},
		{"train_packets", counters->train_packets},
		{"reads", counters->reads},
		{"writes", counters->writes},
		{"icmp_sent", counters->icmp_sent},
		{"icmp_limited", counters->icmp_limited},
		{"blocked", counters->blocked},
		{"replayed", counters->replayed},
		{"kernel_errors", counters->kernel_errors},
		{"last_error", counters->last_error},
	};
	PyObject *dict = PyDict_New();
	PyObject *drops = drops_tuple(counters);
	int failed = dict == NULL || drops == NULL;
	for (size_t i = 0; !failed && i < sizeof fields / sizeof fields[0]; i++)
		failed = add_count(dict, fields[i].name, fields[i].value);
	if (!failed)
		failed = PyDict_SetItemString(dict, "drops", drops);
	Py_XDECREF(drops);
	if (failed)
		Py_CLEAR(dict);
	return dict;
}

static PyObject *pump_get_table(PyObject *object, void *Py_UNUSED(closure))
{
	return Py_NewRef(((PumpObject *)object)->table);
}

static int pump_set_table(PyObject *object, PyObject *value, void *Py_UNUSED(closure))
{
	PumpObject *self = (PumpObject *)object;
	ModuleState *state = PyType_GetModuleState(Py_TYPE(object));
	if (value == NULL) {
		PyErr_SetString(PyExc_AttributeError, "a pump has a table");
		return -1;
	}
	if (state == NULL || native_table(state, value) == NULL)
		return -1;
	PyObject *old = self->table;
	self->table = Py_NewRef(value);
	Py_DECREF(old);
	return 0;
}

enum { SWITCH_GSO, SWITCH_UDP, SWITCH_TCP };

static PyObject *pump_get_switch(PyObject *object, void *which)
{
	const PumpObject *self = (PumpObject *)object;
	if (self->encap != NULL)
		return PyBool_FromLong(io_encap_gso(self->encap));
	return PyBool_FromLong(io_decap_merges(self->decap, (intptr_t)which == SWITCH_TCP));
}

static int pump_set_switch(PyObject *object, PyObject *value, void *which)
{
	const PumpObject *self = (PumpObject *)object;
	const int on = value == NULL ? -1 : PyObject_IsTrue(value);
	if (on < 0 || self->running) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_RuntimeError, "an offload is switched between two runs");
		return -1;
	}
	if (self->encap != NULL)
		io_encap_set_gso(self->encap, on != 0);
	else
		io_decap_set_merges(self->decap, (intptr_t)which == SWITCH_TCP, on != 0);
	return 0;
}

static PyObject *encap_pending(PyObject *object, void *Py_UNUSED(closure))
{
	const PumpObject *self = (PumpObject *)object;
	return PyBool_FromLong(!self->running && io_encap_pending(self->encap));
}

#define PUMP_METHODS                                                                                                   \
	{"run", (PyCFunction)(void (*)(void))pump_run, METH_VARARGS | METH_KEYWORDS,                                   \
	 "Move packets until a descriptor is drained or the budget of batches is used up; returns a Status."},         \
	{"counters", pump_counters, METH_NOARGS, "The counters as of the end of the last run."}

static PyMethodDef encap_methods[] = {
	PUMP_METHODS,
	{"serve", (PyCFunction)(void (*)(void))encap_serve, METH_VARARGS | METH_KEYWORDS,
	 "Move packets both ways, with a Decap, as they come until the descriptor that wakes is readable."},
	{NULL, NULL, 0, NULL},
};

static PyMethodDef decap_methods[] = {PUMP_METHODS, {NULL, NULL, 0, NULL}};

static PyGetSetDef encap_getset[] = {
	{"table", pump_get_table, pump_set_table, "Replaced as a whole; a running call goes on with the old one.", NULL},
	{"gso", pump_get_switch, pump_set_switch, "Whether UDP_SEGMENT is used; withdrawn by the kernel's errors.",
	 (void *)(intptr_t)SWITCH_GSO},
	{"pending", encap_pending, NULL, "Whether packets are held that the socket did not take.", NULL},
	{NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef decap_getset[] = {
	{"table", pump_get_table, pump_set_table, "Replaced as a whole; a running call goes on with the old one.", NULL},
	{"tcp", pump_get_switch, pump_set_switch, "Whether TCP is merged; withdrawn by the kernel's errors.",
	 (void *)(intptr_t)SWITCH_TCP},
	{"udp", pump_get_switch, pump_set_switch, "Whether UDP is merged; withdrawn by the kernel's errors.",
	 (void *)(intptr_t)SWITCH_UDP},
	{NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot encap_slots[] = {
	{Py_tp_new, encap_new},
	{Py_tp_dealloc, pump_dealloc},
	{Py_tp_methods, encap_methods},
	{Py_tp_getset, encap_getset},
	{Py_tp_doc, "TUN device to UDP socket."},
	{0, NULL},
};

static PyType_Slot decap_slots[] = {
	{Py_tp_new, decap_new},
	{Py_tp_dealloc, pump_dealloc},
	{Py_tp_methods, decap_methods},
	{Py_tp_getset, decap_getset},
	{Py_tp_doc, "UDP socket to TUN device."},
	{0, NULL},
};

static PyType_Spec encap_spec = {
	.name = "flanneld_py.dataplane._native.Encap",
	.basicsize = sizeof(PumpObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = encap_slots,
};

static PyType_Spec decap_spec = {
	.name = "flanneld_py.dataplane._native.Decap",
	.basicsize = sizeof(PumpObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = decap_slots,
};

/* ---- module ----------------------------------------------------------------------------------------------------- */

/* stamp.py: what deploy/compiling.py compiles. Builders that leave the sources behind need not say it. */
#ifndef NATIVE_SOURCES
#define NATIVE_SOURCES ""
#endif

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec)
{
	PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
	if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) < 0)
		Py_CLEAR(type);
	return (PyTypeObject *)type;
}

static int module_exec(PyObject *module)
{
	ModuleState *state = PyModule_GetState(module);
	state->table = add_type(module, &native_table_spec);
	state->encap = add_type(module, &encap_spec);
	state->decap = add_type(module, &decap_spec);
	if (state->table == NULL || state->encap == NULL || state->decap == NULL)
		return -1;
	if (PyModule_AddStringConstant(module, "SOURCES", NATIVE_SOURCES) < 0)
		return -1;
	return PyModule_AddIntConstant(module, "DROPS", PUMP_DROPS);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
	ModuleState *state = PyModule_GetState(module);
	Py_VISIT(state->table);
	Py_VISIT(state->encap);
	Py_VISIT(state->decap);
	return 0;
}

static int module_clear(PyObject *module)
{
	ModuleState *state = PyModule_GetState(module);
	Py_CLEAR(state->table);
	Py_CLEAR(state->encap);
	Py_CLEAR(state->decap);
	return 0;
}

static void module_free(void *module)
{
	module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
	{Py_mod_exec, (void *)module_exec},
	{0, NULL},
};

static struct PyModuleDef module_def = {
	PyModuleDef_HEAD_INIT,
	.m_name = "_native",
	.m_doc = "The userspace data path in C; pump.py says what it does.",
	.m_size = sizeof(ModuleState),
	.m_methods = native_functions,
	.m_slots = module_slots,
	.m_traverse = module_traverse,
	.m_clear = module_clear,
	.m_free = module_free,
};

PyMODINIT_FUNC PyInit__native(void)
{
	return PyModuleDef_Init(&module_def);
}
