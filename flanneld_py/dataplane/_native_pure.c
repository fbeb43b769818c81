/* The table, and the decisions of _pump.h as Python functions on bytes with the signatures of pump_portable.py: those
 * are what the differential tests drive. They copy and allocate; the data path does not come through them.
 */
#include "_native.h"

#include <stdlib.h>

#include "_checksum.h"

/* ---- Table ------------------------------------------------------------------------------------------------------ */

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"image", NULL};
	Py_buffer view;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*:Table", names, &view))
		return NULL;
	TableObject *self = (TableObject *)PyType_GenericAlloc(type, 0);
	if (self == NULL) {
		PyBuffer_Release(&view);
		return NULL;
	}
	const size_t size = (size_t)view.len;
	self->image = malloc(size ? size : 1); /* aligned for every type, as the image must be */
	if (self->image != NULL)
		memcpy(self->image, view.buf, size);
	PyBuffer_Release(&view);
	if (self->image == NULL) {
		Py_DECREF(self);
		return PyErr_NoMemory();
	}
	const char *wrong = pump_table_open(&self->table, self->image, size);
	if (wrong != NULL) {
		Py_DECREF(self);
		PyErr_SetString(PyExc_ValueError, wrong);
		return NULL;
	}
	return (PyObject *)self;
}

static void table_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	free(((TableObject *)object)->image);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
	Py_DECREF(type);
}

static PyObject *table_lookup(PyObject *object, PyObject *address)
{
	const unsigned long value = PyLong_AsUnsignedLong(address);
	if (value == (unsigned long)-1 && PyErr_Occurred())
		return NULL;
	if (value > UINT32_MAX) {
		PyErr_SetString(PyExc_OverflowError, "an IPv4 address has 32 bits");
		return NULL;
	}
	return PyLong_FromUnsignedLong(pump_lookup(&((TableObject *)object)->table, (uint32_t)value));
}

static PyMethodDef table_methods[] = {
	{"lookup", table_lookup, METH_O, "The peer whose subnet is the longest that holds the address, or NO_PEER."},
	{NULL, NULL, 0, NULL},
};

static PyType_Slot table_slots[] = {
	{Py_tp_new, table_new},
	{Py_tp_dealloc, table_dealloc},
	{Py_tp_methods, table_methods},
	{Py_tp_doc, "A table read from its image. ValueError says what is wrong with the image."},
	{0, NULL},
};

PyType_Spec native_table_spec = {
	.name = "flanneld_py.dataplane._native.Table",
	.basicsize = sizeof(TableObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = table_slots,
};

/* ---- decisions -------------------------------------------------------------------------------------------------- */

/* Return: a copy of the bytes of @view that may be changed; NULL with MemoryError. Released with free(). */
static uint8_t *writable_copy(const Py_buffer *view)
{
	uint8_t *copy = malloc(view->len ? (size_t)view->len : 1);
	if (copy == NULL)
		PyErr_NoMemory();
	else
		memcpy(copy, view->buf, (size_t)view->len);
	return copy;
}

static PyObject *as_bytes(const uint8_t *bytes, size_t size)
{
	return PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
}

/* Append a new reference, which is taken over. Return: -1 with an error. */
static int append_new(PyObject *list, PyObject *item)
{
	const int failed = item == NULL ? -1 : PyList_Append(list, item);
	Py_XDECREF(item);
	return failed;
}

static PyObject *joined(const uint8_t *first, size_t first_size, const uint8_t *second, size_t second_size)
{
	uint8_t *both = malloc(first_size + second_size + 1);
	if (both == NULL)
		return PyErr_NoMemory();
	memcpy(both, first, first_size);
	memcpy(both + first_size, second, second_size);
	PyObject *bytes = as_bytes(both, first_size + second_size);
	free(both);
	return bytes;
}

static PyObject *pieces_of(const struct pump_cut *cut)
{
	uint8_t header[PUMP_HEADER_MAX];
	PyObject *list = PyList_New(0);
	for (uint32_t i = 0; list != NULL && i < cut->count; i++) {
		const uint8_t *payload;
		const size_t size = pump_cut_segment(cut, i, header, &payload);
		if (append_new(list, joined(header, cut->header, payload, size)) < 0)
			Py_CLEAR(list);
	}
	return list;
}

static PyObject *pure_segment(PyObject *Py_UNUSED(module), PyObject *args)
{
	Py_buffer head, body;
	struct pump_vnet vnet;
	if (!PyArg_ParseTuple(args, "y*y*:segment", &head, &body))
		return NULL;
	uint8_t *packet = NULL;
	PyObject *result = NULL;
	if (head.len != PUMP_VNET_SIZE) {
		PyErr_SetString(PyExc_ValueError, "a virtio_net_hdr has 10 bytes");
	} else if ((packet = writable_copy(&body)) != NULL) {
		const size_t size = (size_t)body.len;
		struct pump_cut cut = {0};
		memcpy(&vnet, head.buf, sizeof vnet);
		enum pump_drop drop = pump_check_ipv4(packet, size, false);
		if (drop == PUMP_OK)
			drop = pump_plan_cut(&cut, packet, size, &vnet);
		if (drop == PUMP_OK)
			pump_begin_cut(&cut);
		else
			cut.count = 0;
		PyObject *pieces = pieces_of(&cut);
		result = pieces == NULL ? NULL : Py_BuildValue("iN", (int)drop, pieces);
	}
	free(packet);
	PyBuffer_Release(&head);
	PyBuffer_Release(&body);
	return result;
}

static PyObject *pure_outbound(PyObject *module, PyObject *args)
{
	PyObject *object;
	Py_buffer view;
	if (!PyArg_ParseTuple(args, "Oy*:outbound", &object, &view))
		return NULL;
	const TableObject *table = native_table(PyModule_GetState(module), object);
	uint8_t *frame = table == NULL ? NULL : writable_copy(&view);
	PyObject *result = NULL;
	if (frame != NULL) {
		struct pump_outbound out = {.peer = PUMP_NO_PEER};
		struct pump_vnet vnet;
		enum pump_drop drop = PUMP_TRUNCATED;
		if (view.len >= PUMP_VNET_SIZE) {
			memcpy(&vnet, frame, sizeof vnet);
			drop = pump_outbound(&table->table, frame + PUMP_VNET_SIZE, (size_t)view.len - PUMP_VNET_SIZE, &vnet,
			                     &out);
		}
		if (drop != PUMP_OK)
			out.cut.count = 0;
		if (drop != PUMP_OK && drop != PUMP_TOO_BIG)
			out.peer = PUMP_NO_PEER;
		PyObject *pieces = pieces_of(&out.cut);
		result = pieces == NULL ? NULL : Py_BuildValue("iIN", (int)drop, (unsigned)out.peer, pieces);
	}
	free(frame);
	PyBuffer_Release(&view);
	return result;
}

static PyObject *pure_inbound(PyObject *module, PyObject *args)
{
	PyObject *object;
	unsigned outer;
	Py_buffer view;
	if (!PyArg_ParseTuple(args, "OIy*:inbound", &object, &outer, &view))
		return NULL;
	const TableObject *table = native_table(PyModule_GetState(module), object);
	uint8_t *packet = table == NULL ? NULL : writable_copy(&view);
	PyObject *result = NULL;
	if (packet != NULL) {
		struct pump_seen seen = {0};
		const size_t size = (size_t)view.len;
		const enum pump_drop drop = pump_inbound(&table->table, &seen, outer, packet, size);
		result = Py_BuildValue("iN", (int)drop, as_bytes(packet, drop == PUMP_OK ? size : 0));
	}
	free(packet);
	PyBuffer_Release(&view);
	return result;
}

static PyObject *super_packet(const struct pump_merge *merge, const struct pump_train *train)
{
	const size_t size = PUMP_VNET_SIZE + train->size;
	uint8_t *frame = malloc(size + PUMP_HEADER_MAX);
	if (frame == NULL)
		return PyErr_NoMemory();
	size_t at = pump_merge_header(merge, train, frame);
	const size_t skipped = at - PUMP_VNET_SIZE;
	uint16_t index = train->head;
	for (uint16_t i = 0; i < train->count; i++, index = merge->packet[index].next) {
		const struct pump_slice *packet = &merge->packet[index];
		memcpy(frame + at, packet->bytes + skipped, packet->size - skipped);
		at += packet->size - skipped;
	}
	PyObject *bytes = as_bytes(frame, at);
	free(frame);
	return bytes;
}

static PyObject *merged(PyObject *const *packets, Py_ssize_t count, bool tcp, bool udp)
{
	struct pump_merge *merge = malloc(sizeof *merge);
	if (merge == NULL)
		return PyErr_NoMemory();
	PyObject *frames = PyList_New(0);
	pump_merge_begin(merge, tcp, udp);
	for (Py_ssize_t i = 0; frames != NULL && i < count; i++) {
		char *bytes;
		Py_ssize_t size;
		if (PyBytes_AsStringAndSize(packets[i], &bytes, &size) < 0) {
			Py_CLEAR(frames);
		} else if (pump_check_ipv4((uint8_t *)bytes, (size_t)size, false) != PUMP_OK) {
			PyErr_SetString(PyExc_ValueError, "not an IPv4 packet");
			Py_CLEAR(frames);
		} else {
			pump_merge_add(merge, (uint8_t *)bytes, (size_t)size); /* read only until the frames are made */
		}
	}
	for (uint16_t i = 0; frames != NULL && i < merge->trains; i++)
		if (append_new(frames, super_packet(merge, &merge->train[i])) < 0)
			Py_CLEAR(frames);
	free(merge);
	return frames;
}

static PyObject *pure_merge(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"packets", "tcp", "udp", NULL};
	PyObject *sequence, *held[PUMP_BATCH];
	int tcp = 1, udp = 1;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$pp:merge", names, &sequence, &tcp, &udp))
		return NULL;
	const Py_ssize_t count = PySequence_Size(sequence);
	if (count < 0)
		return NULL;
	if (count > PUMP_BATCH)
		return PyErr_Format(PyExc_ValueError, "%zd packets are more than the %d of a batch", count, (int)PUMP_BATCH);
	Py_ssize_t have = 0;
	while (have < count && (held[have] = PySequence_GetItem(sequence, have)) != NULL)
		have++;
	PyObject *frames = have == count ? merged(held, count, tcp != 0, udp != 0) : NULL;
	while (have > 0)
		Py_DECREF(held[--have]);
	return frames;
}

static PyObject *pure_icmp(PyObject *Py_UNUSED(module), PyObject *args)
{
	int kind, mtu;
	unsigned own;
	Py_buffer view;
	uint8_t error[PUMP_ICMP_MAX];
	if (!PyArg_ParseTuple(args, "iiIy*:icmp", &kind, &mtu, &own, &view))
		return NULL;
	PyObject *result = NULL;
	if (kind < PUMP_NET_UNREACHABLE || kind > PUMP_TIME_EXCEEDED || mtu < 0 || mtu > UINT16_MAX)
		PyErr_SetString(PyExc_ValueError, "no such ICMP error, or an MTU above 65535");
	else
		result = as_bytes(error, pump_icmp((enum pump_icmp_kind)kind, (uint16_t)mtu, own, view.buf, (size_t)view.len, error));
	PyBuffer_Release(&view);
	return result;
}

static PyObject *pure_sum_ways(PyObject *Py_UNUSED(module), PyObject *args)
{
	Py_buffer view;
	if (!PyArg_ParseTuple(args, "y*:sum_ways", &view))
		return NULL;
	PyObject *list = PyList_New(0);
	for (int way = -1; list != NULL && way < PUMP_SUM_WAYS; way++) {
		if (way >= 0 && !pump_sum_available((enum pump_sum_way)way))
			continue;
		const uint64_t sum = way < 0 ? pump_sum(view.buf, (size_t)view.len)
		                             : pump_sum_by((enum pump_sum_way)way, view.buf, (size_t)view.len);
		const uint16_t folded = pump_fold(sum);
		uint8_t in_memory[2];
		memcpy(in_memory, &folded, 2);
		if (append_new(list, PyLong_FromLong(pump_get16(in_memory))) < 0)
			Py_CLEAR(list);
	}
	PyBuffer_Release(&view);
	return list;
}

PyMethodDef native_functions[] = {
	{"segment", pure_segment, METH_VARARGS, "As pump_portable.segment."},
	{"outbound", pure_outbound, METH_VARARGS, "As pump_portable.outbound."},
	{"inbound", pure_inbound, METH_VARARGS, "As pump_portable.inbound."},
	{"merge", (PyCFunction)(void (*)(void))pure_merge, METH_VARARGS | METH_KEYWORDS, "As pump_portable.merge."},
	{"icmp", pure_icmp, METH_VARARGS, "As wire.icmp."},
	{"sum_ways", pure_sum_ways, METH_VARARGS, "wire.ones_sum of the bytes, by the usual way and by every one there is."},
	{NULL, NULL, 0, NULL},
};
