/* The C ABI of PJRT plugins, as far as the engine uses it: structures and table of version 0.81, names and layouts as
 * published by OpenXLA. tools/check_pjrt_abi.py compares every offset, size and constant with a published header.
 *
 * A structure begins with its size as its writer knows it, so that either side may be newer: later versions only
 * append. Hence sizes end at the last member, without padding, and a slot of the table is asked for before it is called
 * (MTH__HAS in pjrt_plugin.h). In versions up to 0.117 four of the structures below are longer: PJRT_ExecuteOptions,
 * PJRT_Device_MemoryStats_Args, and the arguments of GetCompiledMemoryStats and DeserializeAndLoad; all plugins from
 * 0.81 on take the sizes given here. */
#ifndef MTH__PJRT_ABI_H
#define MTH__PJRT_ABI_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PJRT_API_MAJOR = 0, PJRT_API_MINOR = 81 };

typedef struct PJRT_Extension_Base {
    size_t struct_size;
    int type;
    struct PJRT_Extension_Base *next;
} PJRT_Extension_Base;

/* A structure named `name` that ends with the member `last`; the arguments of a function that returns PJRT_Error *. */
#define MTH__STRUCT(name, last, ...)                                                                                   \
    typedef struct name {                                                                                              \
        size_t struct_size;                                                                                            \
        PJRT_Extension_Base *extension_start;                                                                          \
        __VA_ARGS__                                                                                                    \
    } name;                                                                                                            \
    enum { name##_STRUCT_SIZE = offsetof(name, last) + sizeof(((name *)NULL)->last) }
#define MTH__CALL(name, last, ...)                                                                                     \
    MTH__STRUCT(name##_Args, last, __VA_ARGS__);                                                                       \
    typedef PJRT_Error *name(name##_Args *)

typedef struct PJRT_Error PJRT_Error;
typedef struct PJRT_Event PJRT_Event;
typedef struct PJRT_Client PJRT_Client;
typedef struct PJRT_Device PJRT_Device;
typedef struct PJRT_Memory PJRT_Memory;
typedef struct PJRT_DeviceDescription PJRT_DeviceDescription;
typedef struct PJRT_TopologyDescription PJRT_TopologyDescription;
typedef struct PJRT_Executable PJRT_Executable;
typedef struct PJRT_LoadedExecutable PJRT_LoadedExecutable;
typedef struct PJRT_Buffer PJRT_Buffer;
typedef struct PJRT_SerializedExecutable PJRT_SerializedExecutable;
typedef struct PJRT_SerializedTopology PJRT_SerializedTopology;
typedef struct PJRT_ExecuteContext PJRT_ExecuteContext;
typedef struct PJRT_SendCallbackInfo PJRT_SendCallbackInfo;
typedef struct PJRT_RecvCallbackInfo PJRT_RecvCallbackInfo;
typedef struct PJRT_Buffer_MemoryLayout PJRT_Buffer_MemoryLayout;

MTH__STRUCT(PJRT_Api_Version, minor_version, int major_version; int minor_version;);

/* ---------------------------------------------------------------- errors, events */
typedef enum {
    PJRT_Error_Code_OK = 0,
    PJRT_Error_Code_CANCELLED = 1,
    PJRT_Error_Code_UNKNOWN = 2,
    PJRT_Error_Code_INVALID_ARGUMENT = 3,
    PJRT_Error_Code_DEADLINE_EXCEEDED = 4,
    PJRT_Error_Code_NOT_FOUND = 5,
    PJRT_Error_Code_ALREADY_EXISTS = 6,
    PJRT_Error_Code_PERMISSION_DENIED = 7,
    PJRT_Error_Code_RESOURCE_EXHAUSTED = 8,
    PJRT_Error_Code_FAILED_PRECONDITION = 9,
    PJRT_Error_Code_ABORTED = 10,
    PJRT_Error_Code_OUT_OF_RANGE = 11,
    PJRT_Error_Code_UNIMPLEMENTED = 12,
    PJRT_Error_Code_INTERNAL = 13,
    PJRT_Error_Code_UNAVAILABLE = 14,
    PJRT_Error_Code_DATA_LOSS = 15,
    PJRT_Error_Code_UNAUTHENTICATED = 16
} PJRT_Error_Code;

MTH__STRUCT(PJRT_Error_Destroy_Args, error, PJRT_Error *error;);
MTH__STRUCT(PJRT_Error_Message_Args, message_size, const PJRT_Error *error; const char *message; size_t message_size;);
typedef void PJRT_Error_Destroy(PJRT_Error_Destroy_Args *);
typedef void PJRT_Error_Message(PJRT_Error_Message_Args *);
MTH__CALL(PJRT_Error_GetCode, code, const PJRT_Error *error; PJRT_Error_Code code;);

MTH__CALL(PJRT_Event_Destroy, event, PJRT_Event *event;);
MTH__CALL(PJRT_Event_IsReady, is_ready, PJRT_Event *event; bool is_ready;);
MTH__CALL(PJRT_Event_Error, event, PJRT_Event *event;);
MTH__CALL(PJRT_Event_Await, event, PJRT_Event *event;);
typedef void (*PJRT_Event_OnReadyCallback)(PJRT_Error *error, void *user_arg); /* owns the error */
MTH__CALL(PJRT_Event_OnReady, user_arg, PJRT_Event *event; PJRT_Event_OnReadyCallback callback; void *user_arg;);

/* ---------------------------------------------------------------- plugin, client */
typedef enum {
    PJRT_NamedValue_kString = 0,
    PJRT_NamedValue_kInt64,
    PJRT_NamedValue_kInt64List,
    PJRT_NamedValue_kFloat,
    PJRT_NamedValue_kBool
} PJRT_NamedValue_Type;
/* value_size: of a string its bytes, of a list its entries, else 1. */
MTH__STRUCT(
    PJRT_NamedValue, value_size, const char *name; size_t name_size; PJRT_NamedValue_Type type; union {
        const char *string_value;
        int64_t int64_value;
        const int64_t *int64_array_value;
        float float_value;
        bool bool_value;
    };
    size_t value_size;);

MTH__CALL(PJRT_Plugin_Initialize, extension_start, );
MTH__CALL(PJRT_Plugin_Attributes, num_attributes, const PJRT_NamedValue *attributes; size_t num_attributes;);

/* The kv callbacks serve several processes; here they stay NULL. */
MTH__CALL(PJRT_Client_Create, kv_try_get_user_arg, const PJRT_NamedValue *create_options; size_t num_options;
    void *kv_get_callback; void *kv_get_user_arg; void *kv_put_callback; void *kv_put_user_arg; PJRT_Client * client;
    void *kv_try_get_callback; void *kv_try_get_user_arg;);
MTH__CALL(PJRT_Client_Destroy, client, PJRT_Client *client;);
MTH__CALL(PJRT_Client_PlatformName, platform_name_size, PJRT_Client *client; const char *platform_name;
    size_t platform_name_size;);
MTH__CALL(PJRT_Client_PlatformVersion, platform_version_size, PJRT_Client *client; const char *platform_version;
    size_t platform_version_size;);
MTH__CALL(PJRT_Client_TopologyDescription, topology, PJRT_Client *client; PJRT_TopologyDescription * topology;);
MTH__CALL(PJRT_Client_Devices, num_devices, PJRT_Client *client; PJRT_Device *const *devices; size_t num_devices;);
MTH__CALL(PJRT_Client_AddressableDevices, num_addressable_devices, PJRT_Client *client;
    PJRT_Device *const *addressable_devices; size_t num_addressable_devices;);
MTH__CALL(PJRT_Client_LookupDevice, device, PJRT_Client *client; int id; PJRT_Device * device;);
MTH__CALL(PJRT_Client_DefaultDeviceAssignment, default_assignment, PJRT_Client *client; int num_replicas;
    int num_partitions; size_t default_assignment_size; int *default_assignment;);

MTH__STRUCT(PJRT_Program, format_size, char *code; size_t code_size; const char *format; size_t format_size;);
MTH__CALL(PJRT_Client_Compile, executable, PJRT_Client *client; const PJRT_Program *program;
    const char *compile_options; size_t compile_options_size; PJRT_LoadedExecutable * executable;);

typedef enum {
    PJRT_Buffer_Type_INVALID,
    PJRT_Buffer_Type_PRED,
    PJRT_Buffer_Type_S8,
    PJRT_Buffer_Type_S16,
    PJRT_Buffer_Type_S32,
    PJRT_Buffer_Type_S64,
    PJRT_Buffer_Type_U8,
    PJRT_Buffer_Type_U16,
    PJRT_Buffer_Type_U32,
    PJRT_Buffer_Type_U64,
    PJRT_Buffer_Type_F16,
    PJRT_Buffer_Type_F32,
    PJRT_Buffer_Type_F64,
    PJRT_Buffer_Type_BF16
} PJRT_Buffer_Type;
typedef enum {
    PJRT_HostBufferSemantics_kImmutableOnlyDuringCall,
    PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes,
    PJRT_HostBufferSemantics_kImmutableZeroCopy,
    PJRT_HostBufferSemantics_kMutableZeroCopy
} PJRT_HostBufferSemantics;
/* byte_strides NULL: row-major. Of device and memory one is given. */
MTH__CALL(PJRT_Client_BufferFromHostBuffer, buffer, PJRT_Client *client; const void *data; PJRT_Buffer_Type type;
    const int64_t *dims; size_t num_dims; const int64_t *byte_strides; size_t num_byte_strides;
    PJRT_HostBufferSemantics host_buffer_semantics; PJRT_Device * device; PJRT_Memory * memory;
    PJRT_Buffer_MemoryLayout * device_layout; PJRT_Event * done_with_host_buffer; PJRT_Buffer * buffer;);

/* ---------------------------------------------------------------- devices, memories, topologies */
MTH__CALL(PJRT_DeviceDescription_Id, id, PJRT_DeviceDescription *device_description; int id;);
MTH__CALL(PJRT_DeviceDescription_ProcessIndex, process_index, PJRT_DeviceDescription *device_description;
    int process_index;);
MTH__CALL(PJRT_DeviceDescription_Attributes, attributes, PJRT_DeviceDescription *device_description;
    size_t num_attributes; const PJRT_NamedValue *attributes;);
MTH__CALL(PJRT_DeviceDescription_Kind, device_kind_size, PJRT_DeviceDescription *device_description;
    const char *device_kind; size_t device_kind_size;);
MTH__CALL(PJRT_DeviceDescription_DebugString, debug_string_size, PJRT_DeviceDescription *device_description;
    const char *debug_string; size_t debug_string_size;);
MTH__CALL(PJRT_DeviceDescription_ToString, to_string_size, PJRT_DeviceDescription *device_description;
    const char *to_string; size_t to_string_size;);

MTH__CALL(PJRT_Device_GetDescription, device_description, PJRT_Device *device;
    PJRT_DeviceDescription * device_description;);
MTH__CALL(PJRT_Device_IsAddressable, is_addressable, PJRT_Device *device; bool is_addressable;);
MTH__CALL(PJRT_Device_LocalHardwareId, local_hardware_id, PJRT_Device *device; int local_hardware_id;);
MTH__CALL(PJRT_Device_AddressableMemories, num_memories, PJRT_Device *device; PJRT_Memory *const *memories;
    size_t num_memories;);
MTH__CALL(PJRT_Device_DefaultMemory, memory, PJRT_Device *device; PJRT_Memory * memory;);
MTH__CALL(PJRT_Device_MemoryStats, peak_pool_bytes_is_set, PJRT_Device *device; int64_t bytes_in_use;
    int64_t peak_bytes_in_use; bool peak_bytes_in_use_is_set; int64_t num_allocs; bool num_allocs_is_set;
    int64_t largest_alloc_size; bool largest_alloc_size_is_set; int64_t bytes_limit; bool bytes_limit_is_set;
    int64_t bytes_reserved; bool bytes_reserved_is_set; int64_t peak_bytes_reserved; bool peak_bytes_reserved_is_set;
    int64_t bytes_reservable_limit; bool bytes_reservable_limit_is_set; int64_t largest_free_block_bytes;
    bool largest_free_block_bytes_is_set; int64_t pool_bytes; bool pool_bytes_is_set; int64_t peak_pool_bytes;
    bool peak_pool_bytes_is_set;);

MTH__CALL(PJRT_Memory_Id, id, PJRT_Memory *memory; int id;);
MTH__CALL(PJRT_Memory_Kind, kind_size, PJRT_Memory *memory; const char *kind; size_t kind_size;);
MTH__CALL(PJRT_Memory_DebugString, debug_string_size, PJRT_Memory *memory; const char *debug_string;
    size_t debug_string_size;);
MTH__CALL(PJRT_Memory_ToString, to_string_size, PJRT_Memory *memory; const char *to_string; size_t to_string_size;);
MTH__CALL(PJRT_Memory_AddressableByDevices, num_devices, PJRT_Memory *memory; PJRT_Device *const *devices;
    size_t num_devices;);

MTH__CALL(PJRT_TopologyDescription_Create, topology, const char *topology_name; size_t topology_name_size;
    const PJRT_NamedValue *create_options; size_t num_options; PJRT_TopologyDescription * topology;);
MTH__CALL(PJRT_TopologyDescription_Destroy, topology, PJRT_TopologyDescription *topology;);
MTH__CALL(PJRT_TopologyDescription_PlatformName, platform_name_size, const PJRT_TopologyDescription *topology;
    const char *platform_name; size_t platform_name_size;);
MTH__CALL(PJRT_TopologyDescription_PlatformVersion, platform_version_size, PJRT_TopologyDescription *topology;
    const char *platform_version; size_t platform_version_size;);
MTH__CALL(PJRT_TopologyDescription_GetDeviceDescriptions, num_descriptions, const PJRT_TopologyDescription *topology;
    PJRT_DeviceDescription *const *descriptions; size_t num_descriptions;);
MTH__CALL(PJRT_TopologyDescription_Serialize, serialized_topology_deleter, PJRT_TopologyDescription *topology;
    const char *serialized_bytes; size_t serialized_bytes_size; PJRT_SerializedTopology * serialized_topology;
    void (*serialized_topology_deleter)(PJRT_SerializedTopology *););
MTH__CALL(PJRT_TopologyDescription_Attributes, num_attributes, PJRT_TopologyDescription *topology;
    const PJRT_NamedValue *attributes; size_t num_attributes;);

/* ---------------------------------------------------------------- executables */
/* `client` NULL: without devices. */
MTH__CALL(PJRT_Compile, executable, const PJRT_TopologyDescription *topology; const PJRT_Program *program;
    const char *compile_options; size_t compile_options_size; PJRT_Client * client; PJRT_Executable * executable;);
MTH__CALL(PJRT_Executable_Destroy, executable, PJRT_Executable *executable;);
MTH__CALL(PJRT_Executable_Name, executable_name_size, PJRT_Executable *executable; const char *executable_name;
    size_t executable_name_size;);
MTH__CALL(PJRT_Executable_NumReplicas, num_replicas, PJRT_Executable *executable; size_t num_replicas;);
MTH__CALL(PJRT_Executable_NumPartitions, num_partitions, PJRT_Executable *executable; size_t num_partitions;);
MTH__CALL(PJRT_Executable_NumOutputs, num_outputs, PJRT_Executable *executable; size_t num_outputs;);
MTH__CALL(PJRT_Executable_SizeOfGeneratedCodeInBytes, size_in_bytes, PJRT_Executable *executable;
    int64_t size_in_bytes;);
MTH__CALL(PJRT_Executable_GetCostAnalysis, properties, PJRT_Executable *executable; size_t num_properties;
    const PJRT_NamedValue *properties;);
MTH__CALL(PJRT_Executable_GetCompiledMemoryStats, peak_memory_in_bytes, PJRT_Executable *executable;
    int64_t generated_code_size_in_bytes; int64_t argument_size_in_bytes; int64_t output_size_in_bytes;
    int64_t alias_size_in_bytes; int64_t temp_size_in_bytes; int64_t host_generated_code_size_in_bytes;
    int64_t host_argument_size_in_bytes; int64_t host_output_size_in_bytes; int64_t host_alias_size_in_bytes;
    int64_t host_temp_size_in_bytes; int64_t peak_memory_in_bytes;);
MTH__CALL(PJRT_Executable_OutputElementTypes, num_output_types, PJRT_Executable *executable;
    PJRT_Buffer_Type * output_types; size_t num_output_types;);
MTH__CALL(PJRT_Executable_OutputDimensions, dim_sizes, PJRT_Executable *executable; size_t num_outputs;
    const int64_t *dims; const size_t *dim_sizes;);
MTH__CALL(PJRT_Executable_OutputMemoryKinds, memory_kind_sizes, PJRT_Executable *executable; size_t num_outputs;
    const char *const *memory_kinds; const size_t *memory_kind_sizes;);
/* Called twice: with program->code NULL for the size, then with room. */
MTH__CALL(PJRT_Executable_OptimizedProgram, program, PJRT_Executable *executable; PJRT_Program * program;);
MTH__CALL(PJRT_Executable_Serialize, serialized_executable_deleter, const PJRT_Executable *executable;
    const char *serialized_bytes; size_t serialized_bytes_size; PJRT_SerializedExecutable * serialized_executable;
    void (*serialized_executable_deleter)(PJRT_SerializedExecutable *););
MTH__CALL(PJRT_Executable_DeserializeAndLoad, overridden_serialized_compile_options_size, PJRT_Client *client;
    const char *serialized_executable; size_t serialized_executable_size; PJRT_LoadedExecutable * loaded_executable;
    const char *overridden_serialized_compile_options; size_t overridden_serialized_compile_options_size;);

MTH__CALL(PJRT_LoadedExecutable_Destroy, executable, PJRT_LoadedExecutable *executable;);
MTH__CALL(PJRT_LoadedExecutable_GetExecutable, executable, PJRT_LoadedExecutable *loaded_executable;
    PJRT_Executable * executable;);
MTH__CALL(PJRT_LoadedExecutable_AddressableDevices, num_addressable_devices, PJRT_LoadedExecutable *executable;
    PJRT_Device *const *addressable_devices; size_t num_addressable_devices;);
MTH__CALL(PJRT_LoadedExecutable_Delete, executable, PJRT_LoadedExecutable *executable;);
MTH__CALL(PJRT_LoadedExecutable_IsDeleted, is_deleted, PJRT_LoadedExecutable *executable; bool is_deleted;);
MTH__STRUCT(PJRT_ExecuteOptions, incarnation_ids, PJRT_SendCallbackInfo **send_callbacks;
    PJRT_RecvCallbackInfo * *recv_callbacks; size_t num_send_ops; size_t num_recv_ops; int launch_id;
    const int64_t *non_donatable_input_indices; size_t num_non_donatable_input_indices; PJRT_ExecuteContext * context;
    const char *call_location; size_t num_tasks; int *task_ids; int64_t *incarnation_ids;);
/* argument_lists[device][argument], output_lists[device][output]. */
MTH__CALL(PJRT_LoadedExecutable_Execute, execute_device, PJRT_LoadedExecutable *executable;
    PJRT_ExecuteOptions * options; PJRT_Buffer *const *const *argument_lists; size_t num_devices; size_t num_args;
    PJRT_Buffer * *const *output_lists; PJRT_Event * *device_complete_events; PJRT_Device * execute_device;);

/* ---------------------------------------------------------------- buffers */
MTH__CALL(PJRT_Buffer_Destroy, buffer, PJRT_Buffer *buffer;);
MTH__CALL(PJRT_Buffer_ElementType, type, PJRT_Buffer *buffer; PJRT_Buffer_Type type;);
MTH__CALL(PJRT_Buffer_Dimensions, num_dims, PJRT_Buffer *buffer; const int64_t *dims; size_t num_dims;);
MTH__CALL(PJRT_Buffer_OnDeviceSizeInBytes, on_device_size_in_bytes, PJRT_Buffer *buffer;
    size_t on_device_size_in_bytes;);
MTH__CALL(PJRT_Buffer_Device, device, PJRT_Buffer *buffer; PJRT_Device * device;);
MTH__CALL(PJRT_Buffer_Memory, memory, PJRT_Buffer *buffer; PJRT_Memory * memory;);
MTH__CALL(PJRT_Buffer_Delete, buffer, PJRT_Buffer *buffer;);
MTH__CALL(PJRT_Buffer_IsDeleted, is_deleted, PJRT_Buffer *buffer; bool is_deleted;);
MTH__CALL(PJRT_Buffer_CopyToDevice, dst_buffer, PJRT_Buffer *buffer; PJRT_Device * dst_device;
    PJRT_Buffer * dst_buffer;);
MTH__CALL(PJRT_Buffer_CopyToMemory, dst_buffer, PJRT_Buffer *buffer; PJRT_Memory * dst_memory;
    PJRT_Buffer * dst_buffer;);
MTH__CALL(PJRT_Buffer_ToHostBuffer, event, PJRT_Buffer *src; PJRT_Buffer_MemoryLayout * host_layout; void *dst;
    size_t dst_size; PJRT_Event * event;);
MTH__CALL(PJRT_Buffer_IsOnCpu, is_on_cpu, PJRT_Buffer *buffer; bool is_on_cpu;);
MTH__CALL(PJRT_Buffer_ReadyEvent, event, PJRT_Buffer *buffer; PJRT_Event * event;);
MTH__CALL(PJRT_Buffer_UnsafePointer, buffer_pointer, PJRT_Buffer *buffer; uintptr_t buffer_pointer;);
MTH__CALL(PJRT_Buffer_IncreaseExternalReferenceCount, buffer, PJRT_Buffer *buffer;);
MTH__CALL(PJRT_Buffer_DecreaseExternalReferenceCount, buffer, PJRT_Buffer *buffer;);
MTH__CALL(PJRT_Buffer_OpaqueDeviceMemoryDataPointer, device_memory_ptr, PJRT_Buffer *buffer; void *device_memory_ptr;);

/* ---------------------------------------------------------------- the table, in the published order;
    slots that are not used are `void *` */
typedef struct PJRT_Api {
    size_t struct_size;
    PJRT_Extension_Base *extension_start;
    PJRT_Api_Version pjrt_api_version;
    PJRT_Error_Destroy *PJRT_Error_Destroy;
    PJRT_Error_Message *PJRT_Error_Message;
    PJRT_Error_GetCode *PJRT_Error_GetCode;
    PJRT_Plugin_Initialize *PJRT_Plugin_Initialize;
    PJRT_Plugin_Attributes *PJRT_Plugin_Attributes;
    PJRT_Event_Destroy *PJRT_Event_Destroy;
    PJRT_Event_IsReady *PJRT_Event_IsReady;
    PJRT_Event_Error *PJRT_Event_Error;
    PJRT_Event_Await *PJRT_Event_Await;
    PJRT_Event_OnReady *PJRT_Event_OnReady;
    PJRT_Client_Create *PJRT_Client_Create;
    PJRT_Client_Destroy *PJRT_Client_Destroy;
    PJRT_Client_PlatformName *PJRT_Client_PlatformName;
    void *PJRT_Client_ProcessIndex;
    PJRT_Client_PlatformVersion *PJRT_Client_PlatformVersion;
    PJRT_Client_Devices *PJRT_Client_Devices;
    PJRT_Client_AddressableDevices *PJRT_Client_AddressableDevices;
    PJRT_Client_LookupDevice *PJRT_Client_LookupDevice;
    void *PJRT_Client_LookupAddressableDevice;
    void *PJRT_Client_AddressableMemories;
    PJRT_Client_Compile *PJRT_Client_Compile;
    PJRT_Client_DefaultDeviceAssignment *PJRT_Client_DefaultDeviceAssignment;
    PJRT_Client_BufferFromHostBuffer *PJRT_Client_BufferFromHostBuffer;
    PJRT_DeviceDescription_Id *PJRT_DeviceDescription_Id;
    PJRT_DeviceDescription_ProcessIndex *PJRT_DeviceDescription_ProcessIndex;
    PJRT_DeviceDescription_Attributes *PJRT_DeviceDescription_Attributes;
    PJRT_DeviceDescription_Kind *PJRT_DeviceDescription_Kind;
    PJRT_DeviceDescription_DebugString *PJRT_DeviceDescription_DebugString;
    PJRT_DeviceDescription_ToString *PJRT_DeviceDescription_ToString;
    PJRT_Device_GetDescription *PJRT_Device_GetDescription;
    PJRT_Device_IsAddressable *PJRT_Device_IsAddressable;
    PJRT_Device_LocalHardwareId *PJRT_Device_LocalHardwareId;
    PJRT_Device_AddressableMemories *PJRT_Device_AddressableMemories;
    PJRT_Device_DefaultMemory *PJRT_Device_DefaultMemory;
    PJRT_Device_MemoryStats *PJRT_Device_MemoryStats;
    PJRT_Memory_Id *PJRT_Memory_Id;
    PJRT_Memory_Kind *PJRT_Memory_Kind;
    PJRT_Memory_DebugString *PJRT_Memory_DebugString;
    PJRT_Memory_ToString *PJRT_Memory_ToString;
    PJRT_Memory_AddressableByDevices *PJRT_Memory_AddressableByDevices;
    PJRT_Executable_Destroy *PJRT_Executable_Destroy;
    PJRT_Executable_Name *PJRT_Executable_Name;
    PJRT_Executable_NumReplicas *PJRT_Executable_NumReplicas;
    PJRT_Executable_NumPartitions *PJRT_Executable_NumPartitions;
    PJRT_Executable_NumOutputs *PJRT_Executable_NumOutputs;
    PJRT_Executable_SizeOfGeneratedCodeInBytes *PJRT_Executable_SizeOfGeneratedCodeInBytes;
    PJRT_Executable_GetCostAnalysis *PJRT_Executable_GetCostAnalysis;
    PJRT_Executable_OutputMemoryKinds *PJRT_Executable_OutputMemoryKinds;
    PJRT_Executable_OptimizedProgram *PJRT_Executable_OptimizedProgram;
    PJRT_Executable_Serialize *PJRT_Executable_Serialize;
    PJRT_LoadedExecutable_Destroy *PJRT_LoadedExecutable_Destroy;
    PJRT_LoadedExecutable_GetExecutable *PJRT_LoadedExecutable_GetExecutable;
    PJRT_LoadedExecutable_AddressableDevices *PJRT_LoadedExecutable_AddressableDevices;
    PJRT_LoadedExecutable_Delete *PJRT_LoadedExecutable_Delete;
    PJRT_LoadedExecutable_IsDeleted *PJRT_LoadedExecutable_IsDeleted;
    PJRT_LoadedExecutable_Execute *PJRT_LoadedExecutable_Execute;
    PJRT_Executable_DeserializeAndLoad *PJRT_Executable_DeserializeAndLoad;
    void *PJRT_LoadedExecutable_Fingerprint;
    PJRT_Buffer_Destroy *PJRT_Buffer_Destroy;
    PJRT_Buffer_ElementType *PJRT_Buffer_ElementType;
    PJRT_Buffer_Dimensions *PJRT_Buffer_Dimensions;
    void *PJRT_Buffer_UnpaddedDimensions;
    void *PJRT_Buffer_DynamicDimensionIndices;
    void *PJRT_Buffer_GetMemoryLayout;
    PJRT_Buffer_OnDeviceSizeInBytes *PJRT_Buffer_OnDeviceSizeInBytes;
    PJRT_Buffer_Device *PJRT_Buffer_Device;
    PJRT_Buffer_Memory *PJRT_Buffer_Memory;
    PJRT_Buffer_Delete *PJRT_Buffer_Delete;
    PJRT_Buffer_IsDeleted *PJRT_Buffer_IsDeleted;
    PJRT_Buffer_CopyToDevice *PJRT_Buffer_CopyToDevice;
    PJRT_Buffer_ToHostBuffer *PJRT_Buffer_ToHostBuffer;
    PJRT_Buffer_IsOnCpu *PJRT_Buffer_IsOnCpu;
    PJRT_Buffer_ReadyEvent *PJRT_Buffer_ReadyEvent;
    PJRT_Buffer_UnsafePointer *PJRT_Buffer_UnsafePointer;
    PJRT_Buffer_IncreaseExternalReferenceCount *PJRT_Buffer_IncreaseExternalReferenceCount;
    PJRT_Buffer_DecreaseExternalReferenceCount *PJRT_Buffer_DecreaseExternalReferenceCount;
    PJRT_Buffer_OpaqueDeviceMemoryDataPointer *PJRT_Buffer_OpaqueDeviceMemoryDataPointer;
    void *PJRT_CopyToDeviceStream_Destroy;
    void *PJRT_CopyToDeviceStream_AddChunk;
    void *PJRT_CopyToDeviceStream_TotalBytes;
    void *PJRT_CopyToDeviceStream_GranuleSize;
    void *PJRT_CopyToDeviceStream_CurrentBytes;
    PJRT_TopologyDescription_Create *PJRT_TopologyDescription_Create;
    PJRT_TopologyDescription_Destroy *PJRT_TopologyDescription_Destroy;
    PJRT_TopologyDescription_PlatformName *PJRT_TopologyDescription_PlatformName;
    PJRT_TopologyDescription_PlatformVersion *PJRT_TopologyDescription_PlatformVersion;
    PJRT_TopologyDescription_GetDeviceDescriptions *PJRT_TopologyDescription_GetDeviceDescriptions;
    PJRT_TopologyDescription_Serialize *PJRT_TopologyDescription_Serialize;
    PJRT_TopologyDescription_Attributes *PJRT_TopologyDescription_Attributes;
    PJRT_Compile *PJRT_Compile;
    PJRT_Executable_OutputElementTypes *PJRT_Executable_OutputElementTypes;
    PJRT_Executable_OutputDimensions *PJRT_Executable_OutputDimensions;
    PJRT_Buffer_CopyToMemory *PJRT_Buffer_CopyToMemory;
    void *PJRT_Client_CreateViewOfDeviceBuffer;
    void *PJRT_Executable_Fingerprint;
    PJRT_Client_TopologyDescription *PJRT_Client_TopologyDescription;
    PJRT_Executable_GetCompiledMemoryStats *PJRT_Executable_GetCompiledMemoryStats;
    void *PJRT_Memory_Kind_Id;
    void *PJRT_ExecuteContext_Create;
    void *PJRT_ExecuteContext_Destroy;
    void *PJRT_Buffer_CopyRawToHost;
    void *PJRT_AsyncHostToDeviceTransferManager_Destroy;
    void *PJRT_AsyncHostToDeviceTransferManager_TransferData;
    void *PJRT_Client_CreateBuffersForAsyncHostToDevice;
    void *PJRT_AsyncHostToDeviceTransferManager_RetrieveBuffer;
    void *PJRT_AsyncHostToDeviceTransferManager_Device;
    void *PJRT_AsyncHostToDeviceTransferManager_BufferCount;
    void *PJRT_AsyncHostToDeviceTransferManager_BufferSize;
    void *PJRT_AsyncHostToDeviceTransferManager_SetBufferError;
    void *PJRT_AsyncHostToDeviceTransferManager_AddMetadata;
    void *PJRT_Client_DmaMap;
    void *PJRT_Client_DmaUnmap;
    void *PJRT_Client_CreateUninitializedBuffer;
    void *PJRT_Client_UpdateGlobalProcessInfo;
    void *PJRT_TopologyDescription_Deserialize;
    void *PJRT_Client_CreateAliasBuffer;
    void *PJRT_Client_FulfillAliasBuffer;
    void *PJRT_LoadedExecutable_GetDeviceAssignment;
} PJRT_Api;
#undef MTH__STRUCT
#undef MTH__CALL
#endif
