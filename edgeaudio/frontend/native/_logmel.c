/* CPython binding of ea_logmel.c. One type, LogMel: what edgeaudio/frontend/native/stream.py wraps.
 *
 * Limited API of 3.11, so one build serves every later CPython. numpy is not linked: arrays come in through the buffer
 * protocol and answers are made by the `empty` that is passed in. A chunk costs one call from Python, one call of
 * `empty` and two buffers. The GIL is held throughout: a second of audio takes a tenth of a millisecond.
 */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>

#include <string.h>

#include "ea_logmel.h"

/* Changes with the arguments of LogMel and the layout of its tables; stream.py refuses another number. */
#define INTERFACE 1

/* Tables and stream lie in one piece of memory, at multiples of this. */
#define ALIGNMENT ((size_t)64)

typedef struct {
    PyObject_HEAD
    ea_logmel_t *stream;
    unsigned char *memory; /* tables, then the stream */
    size_t n_mels;
    PyObject *empty;     /* numpy.empty */
    PyObject *dtype;     /* float32 */
    PyObject *no_frames; /* the answer (0, n_mels) */
    PyObject *one_frame; /* the shape (1, n_mels) */
} LogMel;

/* A contiguous buffer of one kind of number, at its natural alignment; 0, or -1 with an exception set. */
static int get_numbers(PyObject *object, const char *format, Py_ssize_t size, int ndim, int flags, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, flags | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
        return -1;
    }
    if (view->ndim != ndim || view->itemsize != size || view->format == NULL || strcmp(view->format, format) != 0 ||
        (uintptr_t)view->buf % (size_t)size != 0) {
        PyBuffer_Release(view);
        PyErr_Format(PyExc_TypeError, "wanted an aligned array of %d dimension(s) and format %s", ndim, format);
        return -1;
    }
    return 0;
}

/* ---- making one ---- */

enum { WINDOW, TWIDDLES, SPLIT, BAND_FIRST, BAND_BLOCKS, WEIGHTS, N_TABLES };

static const char *const TABLE_NAMES[N_TABLES] = {"window",     "twiddles",    "split",
                                                  "band_first", "band_blocks", "weights"};

static size_t aligned(size_t n_bytes)
{
    return (n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Whether the arrays have the lengths that ea_logmel.h asks for. */
static int check_lengths(const ea_logmel_tables_t *t, const Py_buffer *views)
{
    const uint16_t *blocks = views[BAND_BLOCKS].buf;
    Py_ssize_t wanted[N_TABLES] = {t->win_length, 6 * (t->n_fft / 8), 2 * (t->n_fft / 4), t->n_mels, t->n_mels, 0};
    for (Py_ssize_t b = 0; b < views[BAND_BLOCKS].shape[0]; b++) {
        wanted[WEIGHTS] += (Py_ssize_t)EA_LOGMEL_BLOCK * blocks[b];
    }
    for (int i = 0; i < N_TABLES; i++) {
        if (views[i].shape[0] != wanted[i]) {
            PyErr_Format(PyExc_ValueError, "%s has %zd values, wanted %zd", TABLE_NAMES[i], views[i].shape[0],
                         wanted[i]);
            return -1;
        }
    }
    return 0;
}

/* Copy the tables and make the stream behind them. */
static int make_stream(LogMel *self, ea_logmel_tables_t *t, const Py_buffer *views)
{
    size_t offsets[N_TABLES + 1] = {0};
    for (int i = 0; i < N_TABLES; i++) {
        offsets[i + 1] = offsets[i] + aligned((size_t)views[i].len);
    }
    /* The sizes are checked by ea_logmel_bytes, the bands with them: they must be readable now. */
    t->band_first = views[BAND_FIRST].buf;
    t->band_blocks = views[BAND_BLOCKS].buf;
    const size_t stream_bytes = ea_logmel_bytes(t);
    if (stream_bytes == 0) {
        PyErr_SetString(PyExc_ValueError, "a size or a band of the tables is out of range (see ea_logmel.h)");
        return -1;
    }
    self->memory = PyMem_Malloc(offsets[N_TABLES] + stream_bytes + ALIGNMENT);
    if (self->memory == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    unsigned char *start = self->memory + (ALIGNMENT - (uintptr_t)self->memory % ALIGNMENT) % ALIGNMENT;
    for (int i = 0; i < N_TABLES; i++) {
        memcpy(start + offsets[i], views[i].buf, (size_t)views[i].len);
    }
    t->window = (const float *)(void *)(start + offsets[WINDOW]);
    t->twiddles = (const float *)(void *)(start + offsets[TWIDDLES]);
    t->split = (const float *)(void *)(start + offsets[SPLIT]);
    t->band_first = (const uint16_t *)(void *)(start + offsets[BAND_FIRST]);
    t->band_blocks = (const uint16_t *)(void *)(start + offsets[BAND_BLOCKS]);
    t->weights = (const float *)(void *)(start + offsets[WEIGHTS]);
    if (ea_logmel_init(&self->stream, start + offsets[N_TABLES], stream_bytes, t) != EA_OK) {
        PyErr_SetString(PyExc_SystemError, "ea_logmel_init refused tables that ea_logmel_bytes took");
        return -1;
    }
    return 0;
}

static int fill(LogMel *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"win_length",  "hop_length", "n_fft",    "n_mels", "log_floor",  "offset",      "scale",
                            "window",      "twiddles",   "split",    "band_first", "band_blocks", "weights", "empty",
                            "dtype",       "no_frames",  NULL};
    ea_logmel_tables_t t = {0};
    PyObject *tables[N_TABLES];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$IIIIfffOOOOOOOOO:LogMel", names, &t.win_length, &t.hop_length,
                                     &t.n_fft, &t.n_mels, &t.log_floor, &t.offset, &t.scale, &tables[WINDOW],
                                     &tables[TWIDDLES], &tables[SPLIT], &tables[BAND_FIRST], &tables[BAND_BLOCKS],
                                     &tables[WEIGHTS], &self->empty, &self->dtype, &self->no_frames)) {
        self->empty = self->dtype = self->no_frames = NULL; /* borrowed so far */
        return -1;
    }
    Py_INCREF(self->empty);
    Py_INCREF(self->dtype);
    Py_INCREF(self->no_frames);
    self->n_mels = t.n_mels;
    self->one_frame = Py_BuildValue("(iI)", 1, t.n_mels);
    if (self->one_frame == NULL) {
        return -1;
    }
    Py_buffer views[N_TABLES];
    int n_views = 0, result = -1;
    for (; n_views < N_TABLES; n_views++) {
        const int whole = n_views == BAND_FIRST || n_views == BAND_BLOCKS;
        if (get_numbers(tables[n_views], whole ? "H" : "f", whole ? 2 : 4, 1, PyBUF_SIMPLE, &views[n_views]) != 0) {
            break;
        }
    }
    if (n_views == N_TABLES && check_lengths(&t, views) == 0) {
        result = make_stream(self, &t, views);
    }
    while (n_views > 0) {
        PyBuffer_Release(&views[--n_views]);
    }
    return result;
}

static PyObject *logmel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    LogMel *self = (LogMel *)alloc(type, 0); /* all zero */
    if (self != NULL && fill(self, args, kwargs) != 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void logmel_dealloc(PyObject *object)
{
    LogMel *self = (LogMel *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->empty);
    Py_XDECREF(self->dtype);
    Py_XDECREF(self->no_frames);
    Py_XDECREF(self->one_frame);
    PyMem_Free(self->memory);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* ---- using one ---- */

static PyObject *new_frames(LogMel *self, size_t n_frames)
{
    if (n_frames == 1) {
        return PyObject_CallFunctionObjArgs(self->empty, self->one_frame, self->dtype, NULL);
    }
    PyObject *shape = Py_BuildValue("(nn)", (Py_ssize_t)n_frames, (Py_ssize_t)self->n_mels);
    if (shape == NULL) {
        return NULL;
    }
    PyObject *frames = PyObject_CallFunctionObjArgs(self->empty, shape, self->dtype, NULL);
    Py_DECREF(shape);
    return frames;
}

/* As ea_logmel_feed; a new reference to the frames, or NULL. */
static PyObject *feed_samples(LogMel *self, const float *samples, size_t n_samples)
{
    const size_t n_frames = ea_logmel_frames(self->stream, n_samples);
    if (n_frames == 0) {
        float none;
        ea_logmel_feed(self->stream, samples, n_samples, &none);
        Py_INCREF(self->no_frames);
        return self->no_frames;
    }
    PyObject *frames = new_frames(self, n_frames);
    if (frames == NULL) {
        return NULL;
    }
    Py_buffer out;
    if (get_numbers(frames, "f", sizeof(float), 2, PyBUF_WRITABLE, &out) != 0) {
        Py_DECREF(frames);
        return NULL;
    }
    /* `empty` is foreign code: it may have returned anything, or fed this very stream. */
    if (out.len != (Py_ssize_t)(n_frames * self->n_mels * sizeof(float)) ||
        ea_logmel_frames(self->stream, n_samples) != n_frames) {
        PyBuffer_Release(&out);
        Py_DECREF(frames);
        PyErr_SetString(PyExc_SystemError, "empty() gave another shape, or the stream was fed meanwhile");
        return NULL;
    }
    ea_logmel_feed(self->stream, samples, n_samples, out.buf);
    PyBuffer_Release(&out);
    return frames;
}

static PyObject *logmel_feed(PyObject *object, PyObject *chunk)
{
    Py_buffer in;
    if (get_numbers(chunk, "f", sizeof(float), 1, PyBUF_SIMPLE, &in) != 0) {
        return NULL;
    }
    PyObject *frames = feed_samples((LogMel *)object, in.buf, (size_t)in.len / sizeof(float));
    PyBuffer_Release(&in);
    return frames;
}

static PyObject *logmel_reset(PyObject *object, PyObject *unused)
{
    (void)unused;
    ea_logmel_reset(((LogMel *)object)->stream);
    Py_RETURN_NONE;
}

static PyMethodDef logmel_methods[] = {
    {"feed", logmel_feed, METH_O,
     PyDoc_STR("feed(chunk) -> the frames it completes, (frames, n_mels) float32\n\n"
               "chunk: (samples,) float32, contiguous and aligned. Anything else raises TypeError, ValueError or\n"
               "BufferError and leaves the stream as it was.")},
    {"reset", logmel_reset, METH_NOARGS, PyDoc_STR("reset() -- forget everything: the next sample is sample 0")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot logmel_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Log-mel of a live waveform; see ea_logmel.h for the arguments.")},
    {Py_tp_new, (void *)logmel_new},
    {Py_tp_dealloc, (void *)logmel_dealloc},
    {Py_tp_methods, logmel_methods},
    {0, NULL},
};

static PyType_Spec logmel_spec = {
    .name = "edgeaudio.frontend.native._logmel.LogMel",
    .basicsize = sizeof(LogMel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = logmel_slots,
};

/* ---- the module ---- */

static PyObject *native_ln(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *given, *result;
    Py_buffer in, out;
    if (!PyArg_ParseTuple(args, "OO:ln", &given, &result) ||
        get_numbers(given, "f", sizeof(float), 1, PyBUF_SIMPLE, &in) != 0) {
        return NULL;
    }
    if (get_numbers(result, "f", sizeof(float), 1, PyBUF_WRITABLE, &out) != 0) {
        PyBuffer_Release(&in);
        return NULL;
    }
    const int fits = in.len == out.len;
    for (Py_ssize_t i = 0; fits && i < in.shape[0]; i++) {
        ((float *)out.buf)[i] = ea_ln(((const float *)in.buf)[i]);
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "ln: the arrays differ in length");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"ln", native_ln, METH_VARARGS, PyDoc_STR("ln(x, out) -- the front-end's own logarithm, for its tests")},
    {NULL, NULL, 0, NULL},
};

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "an unknown compiler"
#endif

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &logmel_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    const int failed = PyModule_AddObjectRef(module, "LogMel", type);
    Py_DECREF(type);
    if (failed || PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) != 0 ||
        PyModule_AddIntConstant(module, "BLOCK", EA_LOGMEL_BLOCK) != 0 ||
        PyModule_AddIntConstant(module, "MIN_FFT", EA_LOGMEL_MIN_FFT) != 0 ||
        PyModule_AddIntConstant(module, "MAX_FFT", EA_LOGMEL_MAX_FFT) != 0) {
        return -1;
    }
    return PyModule_AddStringConstant(module, "COMPILER", COMPILER);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_logmel", .m_methods = module_methods, .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__logmel(void)
{
    return PyModuleDef_Init(&module_definition);
}
