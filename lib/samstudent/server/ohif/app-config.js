// Configuration of OHIF, in place of MONAI Label's. There, the MONAI Label mode can neither save segmentations nor edit
// them manually; here, OHIF's own segmentation panel is added to it.

/** Root of the server, also behind a proxy with a path prefix: `/` or `/wrist/`. */
const root = new URL('..', document.currentScript.src).pathname;

// MONAI Label's panel reads the address of its server from this cookie; the default is port 8000. Cookies are shared by
// all ports of a host, so the cookie of another server on this machine is overwritten.
document.cookie = `MONAILABEL_SERVER_URL=${encodeURIComponent(`${window.location.origin}${root}`)}`;

/** Button of the segmentation panel: a brush or eraser, circle or sphere, with its radius. */
const brush = (id, icon) => {
  const toolNames = [`Circular${id}`, `Sphere${id}`];
  return {
    id,
    icon,
    label: id,
    evaluate: { name: 'evaluate.cornerstone.segmentation', toolNames },
    options: [
      {
        name: 'Radius (mm)', id: `${id.toLowerCase()}-radius`, type: 'range', min: 0.5, max: 99.5, step: 0.5, value: 10,
        commands: { commandName: 'setBrushSize', commandOptions: { toolNames } },
      },
      {
        name: 'Shape', type: 'radio', id: `${id.toLowerCase()}-mode`, value: toolNames[0],
        values: [{ value: toolNames[0], label: 'Circle' }, { value: toolNames[1], label: 'Sphere' }],
        commands: 'setToolActiveToolbar',
      },
    ],
  };
};

const brushes = {
  id: 'BrushTools',
  uiType: 'ohif.buttonGroup',
  props: { groupId: 'BrushTools', items: [brush('Brush', 'icon-tool-brush'), brush('Eraser', 'icon-tool-eraser')] },
};

const scissors = ['CircleScissor', 'SphereScissor', 'RectangleScissor'];
const shapes = {
  id: 'Shapes',
  uiType: 'ohif.radioGroup',
  props: {
    label: 'Shapes',
    icon: 'icon-tool-shape',
    evaluate: { name: 'evaluate.cornerstone.segmentation', toolNames: scissors },
    options: [
      {
        name: 'Shape', type: 'radio', id: 'shape-mode', value: scissors[0],
        values: scissors.map((value) => ({ value, label: value.replace('Scissor', '') })),
        commands: 'setToolActiveToolbar',
      },
    ],
  },
};

/**
 * Repair "Export DICOM SEG". OHIF has two commands with this name; the panel calls the one that gets no destination, which
 * fails without a message.
 */
const repairExport = ({ servicesManager, extensionManager, commandsManager }) => {
  const original = commandsManager.getCommand('storeSegmentation');
  if (!original || original.repaired) {
    return;
  }
  const { uiNotificationService } = servicesManager.services;
  const showMessage = (type, message) => uiNotificationService.show({ title: 'Export DICOM SEG', type, message });
  const store = original.commandFn;
  original.repaired = true;
  original.commandFn = async (options) => {
    const [active] = extensionManager.getActiveDataSource();
    try {
      const stored = await store({ ...options, dataSource: options.dataSource ?? active });
      if (stored) {
        showMessage('success', 'Stored in the PACS.');
      }
      return stored;
    } catch (error) {
      showMessage('error', `Not stored: ${error?.message || error?.response || 'the PACS refused it'}`);
      return undefined;
    }
  };
};

/** MONAI Label's mode, extended, under the same id, so that it replaces the original. */
const monaiLabel = {
  id: '@ohif/mode-monai-label',
  async modeFactory({ modeConfiguration, loadModules }) {
    const [original] = await loadModules(['@ohif/mode-monai-label']);
    const mode = original.modeFactory({ modeConfiguration });
    const [route] = mode.routes;
    return {
      ...mode,
      onModeEnter(services) {
        // The original mode lists these two in the toolbox of the panel, but does not define them.
        services.servicesManager.services.toolbarService.addButtons([brushes, shapes]);
        mode.onModeEnter(services);
        repairExport(services);
      },
      isValidMode: (study) => ({
        ...mode.isValidMode(study),
        description: `Volumes only (CT, MR). Radiographs are reviewed on the page at ${root}samstudent`,
      }),
      routes: [
        {
          ...route,
          layoutTemplate(context) {
            const layout = route.layoutTemplate(context);
            const panel = '@ohif/extension-cornerstone.panelModule.panelSegmentationWithTools';
            // On the left: as a tab beside MONAI Label's panel, it would make that panel lose its connection and clicks.
            layout.props.leftPanels = [...layout.props.leftPanels, panel];
            return layout;
          },
        },
      ],
    };
  },
};

window.config = {
  routerBasename: `${root}ohif/`,
  showStudyList: true,
  extensions: [],
  modes: [monaiLabel],
  showWarningMessageForCrossOrigin: true,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  defaultDataSourceName: 'dicomweb',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'dicomweb',
      configuration: {
        friendlyName: 'PACS',
        name: 'pacs',
        wadoUriRoot: `${root}proxy/dicom/wado`,
        qidoRoot: `${root}proxy/dicom/qido`,
        wadoRoot: `${root}proxy/dicom/wado`,
        qidoSupportsIncludeField: true,
        supportsReject: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        dicomUploadEnabled: true,
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
